"""Codes, token ids and token names: pure functions of the layout, beside their inverses. Knows nothing of tensors.

Ids count block by block: the shared blocks by level, then source after source its own ones. A code of a shared block
is one token for all sources, `<shared_1_0391>`; one of an own block is `<bill_3_0391>` (level from 1, code from 0). In
layout width a level has both, and its own codes follow the shared ones. A source with a quantizer of its own has no
shared codes and levels of its own number; its codes are -1 below its last level. B users, S sources, L levels, K codes of
a level.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    shared_sizes: tuple[int, ...]  # codes of each level's shared block; 0 where it has none
    own_sizes: tuple[int, ...]  # the same of its own blocks
    apart: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # source with a quantizer of its own -> codes of its levels

    @classmethod
    def of(cls, layout: FeatureLayout, quantizer: QuantizerConfig) -> "Vocabulary":
        """The vocabulary of a tokenizer with this layout and these levels."""
        levels = range(quantizer.num_levels)
        own = quantizer.of_profile()
        return cls(
            sources=layout.source_names,
            shared_sizes=tuple(map(quantizer.shared_size, levels)),
            own_sizes=tuple(map(quantizer.own_block_size, levels)),
            apart={} if own is None else {s.name: (own.codebook_size,) * own.num_levels for s in layout.sources if s.kind == "profile"},
        )

    @property
    def num_levels(self) -> int:
        """L, of the source that has most."""
        return max(map(self.levels_of, self.sources))

    def levels_of(self, source: str) -> int:
        """Levels of one source: how many codes a slice of it has."""
        return len(self.apart.get(source, self.shared_sizes))

    @property
    def shared(self) -> NDArray[np.int64]:
        """(S, L), shared codes that a source reaches on each level."""
        return self._padded([() if name in self.apart else self.shared_sizes for name in self.sources])

    @property
    def own(self) -> NDArray[np.int64]:
        """(S, L), own codes of each source and level."""
        return self._padded([self.apart.get(name, self.own_sizes) for name in self.sources])

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(S, L), the codes that a slice can reach; 0 where the source has no such level."""
        return self.shared + self.own

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self._num_shared + int(self.own.sum())

    @property
    def _num_shared(self) -> int:
        """0 where no source is left that shares."""
        return sum(self.shared_sizes) if set(self.sources) - set(self.apart) else 0

    def shared_offsets(self) -> NDArray[np.int64]:
        """(L,): the token id of a level's shared code 0."""
        sizes = self._padded([self.shared_sizes])[0]
        return np.asarray(np.cumsum(sizes) - sizes, np.int64)

    def own_offsets(self) -> NDArray[np.int64]:
        """(S, L): what to add to an own code, numbered within its level, for its token id."""
        own = self.own
        before = np.cumsum(own).reshape(own.shape) - own
        return np.asarray(self._num_shared + before - self.shared, np.int64)

    def check_codes(self, codes: NDArray[Any]) -> None:
        """CodesError unless integers of shape (B, S, L), each in [0, K) or a whole slice of -1."""
        expected = (len(self.sources), self.num_levels)
        if codes.ndim != 3 or codes.shape[1:] != expected or codes.dtype.kind not in "iu":
            raise CodesError(f"codes: found {codes.dtype} {codes.shape}, expected integers (B, {expected[0]}, {expected[1]})")
        sizes = self.sizes
        outside = (codes < -1) | (codes >= sizes)
        if outside.any():
            row, source, level = np.argwhere(outside)[0]
            where = f"row {row}, {self.sources[source]}, level {level + 1}"
            allowed = f"-1 or 0 to {sizes[source, level] - 1}" if sizes[source, level] else f"-1: it has {self.levels_of(self.sources[source])} levels"
            raise CodesError(f"codes: found {codes[row, source, level]} at {where}, expected {allowed}")
        given = codes >= 0
        if (given.any(axis=2) & (~given & (sizes > 0)).any(axis=2)).any():
            raise CodesError("codes: found -1 in some levels of a slice, expected in all of them or in none")

    def token_ids(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """(B, S, L) codes to token ids; -1 stays -1."""
        self.check_codes(codes)
        wide = codes.astype(np.int64)
        ids = wide + np.where(wide < self.shared, self.shared_offsets(), self.own_offsets())
        return np.where(codes >= 0, ids, -1)

    def codes(self, token_ids: NDArray[Any]) -> NDArray[np.int16]:
        """The inverse of `token_ids`; CodesError for an id that belongs to another source or level."""
        shared = self.shared
        is_shared = (token_ids >= self.shared_offsets()) & (token_ids < self.shared_offsets() + shared)
        codes = token_ids - np.where(is_shared, self.shared_offsets(), self.own_offsets())
        foreign = ~is_shared & (codes < shared)  # of another source or level
        codes = np.where(token_ids < 0, token_ids, np.where(foreign, self.sizes, codes))
        self.check_codes(codes)
        return np.asarray(codes, np.int16)

    def token_id(self, source: str | None, level: int, code: int) -> int:
        """The id of one token; the source of a shared code doesn't matter."""
        self._check_token(source, level, code)
        if self._is_shared(source, level, code):
            return int(self.shared_offsets()[level - 1]) + code
        return int(self.own_offsets()[self.sources.index(str(source)), level - 1]) + code

    def token(self, token_id: int) -> Token:
        """The inverse of `token_id`."""
        if not 0 <= token_id < self.size:
            raise CodesError(f"token id: found {token_id}, expected 0 to {self.size - 1}")
        if token_id < self._num_shared:
            level = int(np.searchsorted(np.cumsum(self.shared_sizes), token_id, side="right"))
            return Token(source=None, level=level + 1, code=token_id - int(self.shared_offsets()[level]))
        place = int(np.searchsorted(np.cumsum(self.own), token_id - self._num_shared, side="right"))
        source, level = divmod(place, self.num_levels)
        return Token(source=self.sources[source], level=level + 1, code=token_id - int(self.own_offsets()[source, level]))

    def token_name(self, source: str | None, level: int, code: int) -> str:
        """`<bill_3_0391>`, or `<shared_1_0391>` where the code is shared."""
        self._check_token(source, level, code)
        return f"<{SHARED if self._is_shared(source, level, code) else source}_{level}_{code:04d}>"

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
        shared = [(SHARED, level, 0, size) for level, size in enumerate(self.shared_sizes) if self._num_shared]
        own = [(self.sources[s], level, int(self.shared[s, level]), int(size)) for (s, level), size in np.ndenumerate(self.own)]
        return tuple(f"<{owner}_{level + 1}_{code:04d}>" for owner, level, first, size in shared + own for code in range(first, first + size))

    def describe_levels(self, source: str) -> list[dict[str, int]]:
        """What layout.json says of the levels of one source."""
        row, shared, own = self.sources.index(source), self.shared, self.own
        return [
            {
                "level": level + 1,
                "codebook_size": int(shared[row, level] + own[row, level]),  # the first shared_size of them are shared
                "shared_size": int(shared[row, level]),
                "shared_offset": int(self.shared_offsets()[level]),
                "own_offset": int(self.own_offsets()[row, level]),
            }
            for level in range(self.levels_of(source))
        ]

    def _padded(self, sizes: list[tuple[int, ...]]) -> NDArray[np.int64]:
        """Rows of different length as one array, zeros behind."""
        return np.array([row + (0,) * (self.num_levels - len(row)) for row in sizes], np.int64)

    def _is_shared(self, source: str | None, level: int, code: int) -> bool:
        return source not in self.apart and code < self.shared_sizes[level - 1]

    def _check_token(self, source: str | None, level: int, code: int) -> None:
        if source is not None and source not in self.sources:
            raise CodesError(f"source: found {source!r}, expected one of {self.sources}")
        levels = len(self.shared_sizes) if source is None else self.levels_of(source)
        if not 1 <= level <= levels:
            raise CodesError(f"level: found {level}, expected 1 to {levels}")
        shared = self.shared_sizes[level - 1] if source is None and self._num_shared else 0
        size = shared if source is None else int(self.sizes[self.sources.index(source), level - 1])
        if not 0 <= code < size:
            raise CodesError(f"code: found {code} of {source or SHARED} at level {level}, expected 0 to {size - 1}")
