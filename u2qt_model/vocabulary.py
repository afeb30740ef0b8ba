"""Codes, token ids and token names: pure functions of the layout, beside their inverses. Knows nothing of tensors.

Ids count block by block: the shared blocks by level, then source after source its own ones. A code of a shared block
is one token for all sources, `<shared_1_0391>`; one of an own block is `<bill_3_0391>` (level from 1, code from 0). In
layout width a level has both, and its own codes follow the shared ones. B users, S sources, L levels, K codes of a level.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from u2qt_model.config import FeatureLayout, QuantizerConfig
from u2qt_model.errors import CodesError

SHARED = "shared"
_NAME = re.compile(r"<([a-z][a-z0-9_]*)_([1-9][0-9]?)_([0-9]{4,5})>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """What a token id or name stands for."""

    source: str | None  # None for a shared level
    level: int  # from 1
    code: int  # from 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The numbering of one tokenizer's tokens."""

    sources: tuple[str, ...]  # catalog order
    shared_sizes: tuple[int, ...]  # (L,), codes of each level's shared block; 0 where it has none
    own_sizes: tuple[int, ...]  # (L,), the same of its own blocks

    @classmethod
    def of(cls, layout: FeatureLayout, quantizer: QuantizerConfig) -> "Vocabulary":
        """The vocabulary of a tokenizer with this layout and these levels."""
        levels = range(quantizer.num_levels)
        return cls(
            sources=layout.source_names,
            shared_sizes=tuple(map(quantizer.shared_size, levels)),
            own_sizes=tuple(map(quantizer.own_block_size, levels)),
        )

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.shared_sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """(L,), the codes that a slice can reach on each level."""
        return tuple(shared + own for shared, own in zip(self.shared_sizes, self.own_sizes, strict=True))

    @property
    def size(self) -> int:
        """Number of tokens."""
        return sum(self.shared_sizes) + len(self.sources) * sum(self.own_sizes)

    def shared_offsets(self) -> NDArray[np.int64]:
        """(L,): the token id of a level's shared code 0."""
        return np.cumsum((0, *self.shared_sizes[:-1]), dtype=np.int64)

    def own_offsets(self) -> NDArray[np.int64]:
        """(S, L): what to add to an own code, numbered within its level, for its token id."""
        before = sum(self.shared_sizes) + np.cumsum((0, *self.own_sizes[:-1]), dtype=np.int64)
        by_source = np.arange(len(self.sources), dtype=np.int64)[:, None] * sum(self.own_sizes)
        return np.asarray(before + by_source - np.array(self.shared_sizes), np.int64)

    def check_codes(self, codes: NDArray[Any]) -> None:
        """CodesError unless integers of shape (B, S, L), each in [0, K) or a whole slice of -1."""
        expected = (len(self.sources), self.num_levels)
        if codes.ndim != 3 or codes.shape[1:] != expected or codes.dtype.kind not in "iu":
            raise CodesError(f"codes: found {codes.dtype} {codes.shape}, expected integers (B, {expected[0]}, {expected[1]})")
        outside = (codes < -1) | (codes >= np.array(self.sizes))
        if outside.any():
            row, source, level = np.argwhere(outside)[0]
            where = f"row {row}, {self.sources[source]}, level {level + 1}"
            raise CodesError(f"codes: found {codes[row, source, level]} at {where}, expected -1 or 0 to {self.sizes[level] - 1}")
        absent = codes == -1
        if (absent.any(axis=2) != absent.all(axis=2)).any():
            raise CodesError("codes: found -1 in some levels of a slice, expected in all of them or in none")

    def token_ids(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """(B, S, L) codes to token ids; -1 stays -1."""
        self.check_codes(codes)
        wide = codes.astype(np.int64)
        ids = wide + np.where(wide < np.array(self.shared_sizes), self.shared_offsets(), self.own_offsets())
        return np.where(codes >= 0, ids, -1)

    def codes(self, token_ids: NDArray[Any]) -> NDArray[np.int16]:
        """The inverse of `token_ids`; CodesError for an id that belongs to another source or level."""
        is_shared = (token_ids >= self.shared_offsets()) & (token_ids < self.shared_offsets() + np.array(self.shared_sizes))
        codes = token_ids - np.where(is_shared, self.shared_offsets(), self.own_offsets())
        foreign = ~is_shared & (codes < np.array(self.shared_sizes))  # of another source or level
        codes = np.where(token_ids < 0, token_ids, np.where(foreign, np.array(self.sizes), codes))
        self.check_codes(codes)
        return np.asarray(codes, np.int16)

    def token_id(self, source: str | None, level: int, code: int) -> int:
        """The id of one token; the source of a shared code doesn't matter."""
        self._check_token(source, level, code)
        if code < self.shared_sizes[level - 1]:
            return int(self.shared_offsets()[level - 1]) + code
        return int(self.own_offsets()[self.sources.index(str(source)), level - 1]) + code

    def token(self, token_id: int) -> Token:
        """The inverse of `token_id`."""
        if not 0 <= token_id < self.size:
            raise CodesError(f"token id: found {token_id}, expected 0 to {self.size - 1}")
        num_shared, num_own = sum(self.shared_sizes), sum(self.own_sizes)
        if token_id < num_shared:
            level = int(np.searchsorted(np.cumsum(self.shared_sizes), token_id, side="right"))
            return Token(source=None, level=level + 1, code=token_id - int(self.shared_offsets()[level]))
        source, place = divmod(token_id - num_shared, num_own)
        level = int(np.searchsorted(np.cumsum(self.own_sizes), place, side="right"))
        return Token(source=self.sources[source], level=level + 1, code=token_id - int(self.own_offsets()[source, level]))

    def token_name(self, source: str | None, level: int, code: int) -> str:
        """`<bill_3_0391>`, or `<shared_1_0391>` where the code is shared."""
        self._check_token(source, level, code)
        return f"<{SHARED if code < self.shared_sizes[level - 1] else source}_{level}_{code:04d}>"

    def parse_name(self, name: str) -> Token:
        """The inverse of `token_name`."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise CodesError(f"token name: found {name!r}, expected one such as <bill_3_0391>")
        source = None if match[1] == SHARED else match[1]
        token = Token(source=source, level=int(match[2]), code=int(match[3]))
        self._check_token(token.source, token.level, token.code)
        if self.token_name(token.source, token.level, token.code) != name:
            raise CodesError(f"token name: found {name!r}, expected {self.token_name(token.source, token.level, token.code)}")
        return token

    def names(self) -> tuple[str, ...]:
        """Every token's name; the position is its id."""
        tokens = (self.token(token_id) for token_id in range(self.size))
        return tuple(self.token_name(token.source, token.level, token.code) for token in tokens)

    def describe(self) -> dict[str, Any]:
        """The part of layout.json that numbers the tokens."""
        shared, own = self.shared_offsets(), self.own_offsets()
        levels = [
            {
                "level": level + 1,
                "codebook_size": size,  # codes that a slice can reach; the first shared_size of them are shared
                "shared_size": self.shared_sizes[level],
                "shared_offset": int(shared[level]),
                "own_offsets": {name: int(own[row, level]) for row, name in enumerate(self.sources)},
            }
            for level, size in enumerate(self.sizes)
        ]
        return {"num_levels": self.num_levels, "levels": levels, "vocabulary_size": self.size}

    def _check_token(self, source: str | None, level: int, code: int) -> None:
        if not 1 <= level <= self.num_levels:
            raise CodesError(f"level: found {level}, expected 1 to {self.num_levels}")
        if not 0 <= code < self.sizes[level - 1]:
            raise CodesError(f"code: found {code}, expected 0 to {self.sizes[level - 1] - 1}")
        if source not in self.sources and not (source is None and code < self.shared_sizes[level - 1]):
            raise CodesError(f"source: found {source!r} at level {level}, expected one of {self.sources}")
