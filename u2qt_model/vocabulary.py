"""Codes, token ids and token names: pure functions of the layout, beside their inverses. Knows nothing of tensors.

Ids count level by level: the shared levels first, then source after source its own levels. A code of a shared level
is one token for all sources, `<shared_1_0391>`; one of an own level is `<bill_3_0391>` (level from 1, code from 0). B
users, S sources, L levels, K codes per level.
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
    shared_levels: int  # Lc
    own_levels: int
    codebook_size: int  # K

    @classmethod
    def of(cls, layout: FeatureLayout, quantizer: QuantizerConfig) -> "Vocabulary":
        """The vocabulary of a tokenizer with this layout and these levels."""
        return cls(
            sources=layout.source_names,
            shared_levels=quantizer.shared_levels,
            own_levels=quantizer.own_levels,
            codebook_size=quantizer.codebook_size,
        )

    @property
    def num_levels(self) -> int:
        """L."""
        return self.shared_levels + self.own_levels

    @property
    def size(self) -> int:
        """Number of tokens."""
        return (self.shared_levels + len(self.sources) * self.own_levels) * self.codebook_size

    def offsets(self) -> NDArray[np.int64]:
        """(S, L): the token id of code 0."""
        levels = np.arange(self.num_levels)
        own = np.arange(len(self.sources))[:, None] * self.own_levels
        blocks = levels[None, :] + np.where(levels >= self.shared_levels, own, 0)
        return np.asarray(blocks * self.codebook_size, np.int64)

    def check_codes(self, codes: NDArray[Any]) -> None:
        """CodesError unless integers of shape (B, S, L), each in [0, K) or a whole slice of -1."""
        expected = (len(self.sources), self.num_levels)
        if codes.ndim != 3 or codes.shape[1:] != expected or codes.dtype.kind not in "iu":
            raise CodesError(f"codes: found {codes.dtype} {codes.shape}, expected integers (B, {expected[0]}, {expected[1]})")
        outside = (codes < -1) | (codes >= self.codebook_size)
        if outside.any():
            row, source, level = np.argwhere(outside)[0]
            where = f"row {row}, {self.sources[source]}, level {level + 1}"
            raise CodesError(f"codes: found {codes[row, source, level]} at {where}, expected -1 or 0 to {self.codebook_size - 1}")
        absent = codes == -1
        if (absent.any(axis=2) != absent.all(axis=2)).any():
            raise CodesError("codes: found -1 in some levels of a slice, expected in all of them or in none")

    def token_ids(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """(B, S, L) codes to token ids; -1 stays -1."""
        self.check_codes(codes)
        ids = codes.astype(np.int64) + self.offsets()
        return np.where(codes >= 0, ids, -1)

    def codes(self, token_ids: NDArray[Any]) -> NDArray[np.int16]:
        """The inverse of `token_ids`; CodesError for an id that belongs to another source or level."""
        codes = np.where(token_ids >= 0, token_ids - self.offsets(), token_ids)
        self.check_codes(np.where((token_ids >= 0) & (codes < 0), self.codebook_size, codes))
        return np.asarray(codes, np.int16)

    def token_id(self, source: str | None, level: int, code: int) -> int:
        """The id of one token; the source of a shared level doesn't matter."""
        self._check_token(source, level, code)
        row = 0 if source is None else self.sources.index(source)
        return int(self.offsets()[row, level - 1]) + code

    def token(self, token_id: int) -> Token:
        """The inverse of `token_id`."""
        if not 0 <= token_id < self.size:
            raise CodesError(f"token id: found {token_id}, expected 0 to {self.size - 1}")
        block, code = divmod(token_id, self.codebook_size)
        if block < self.shared_levels:
            return Token(source=None, level=block + 1, code=code)
        source, level = divmod(block - self.shared_levels, self.own_levels)
        return Token(source=self.sources[source], level=self.shared_levels + level + 1, code=code)

    def token_name(self, source: str | None, level: int, code: int) -> str:
        """`<bill_3_0391>`, or `<shared_1_0391>` where the level is shared."""
        self._check_token(source, level, code)
        return f"<{SHARED if level <= self.shared_levels else source}_{level}_{code:04d}>"

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
        offsets = self.offsets()
        levels = [
            {
                "level": level + 1,
                "shared": level < self.shared_levels,
                "codebook_size": self.codebook_size,
                "offsets": {name: int(offsets[row, level]) for row, name in enumerate(self.sources)},
            }
            for level in range(self.num_levels)
        ]
        return {"num_levels": self.num_levels, "levels": levels, "vocabulary_size": self.size}

    def _check_token(self, source: str | None, level: int, code: int) -> None:
        if not 1 <= level <= self.num_levels:
            raise CodesError(f"level: found {level}, expected 1 to {self.num_levels}")
        if source not in self.sources and not (source is None and level <= self.shared_levels):
            raise CodesError(f"source: found {source!r} at level {level}, expected one of {self.sources}")
        if not 0 <= code < self.codebook_size:
            raise CodesError(f"code: found {code}, expected 0 to {self.codebook_size - 1}")
