"""Texts of many lengths in blocks of few shapes, as pure functions of integers.

A text's block has a shape that its own length alone decides, so that what a model computes for it doesn't depend on its
neighbours. Every row keeps at least one padded position: a model that finds none takes another path.

N texts, R rows of a block, T its padded length in tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEP = 16  # tokens; from 128 on, lengths are rounded up by at most an eighth


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthBlock:
    """One run of the model; the first rows are texts, those below are filled up."""

    rows: int  # R
    length: int  # T
    places: NDArray[np.int64]  # (1 to R,) positions of the texts


def padded_length(tokens: int) -> int:
    """T of a text of so many tokens: more than `tokens`, by 16 or an eighth at most."""
    step = max(STEP, 1 << max(0, tokens.bit_length() - 4))
    return (tokens // step + 1) * step


def length_blocks(lengths: Sequence[int], block_tokens: int, most: int) -> Iterator[LengthBlock]:
    """Blocks that hold every text of at least one token once, short ones first; about `block_tokens` tokens each.

    No block is longer than `most`, of which a text fills at most all but one.
    """
    found = np.asarray(lengths, np.int64)
    padded = np.array([min(padded_length(tokens), most) for tokens in found.tolist()], np.int64)
    for length in np.unique(padded[found > 0]).tolist():
        rows = max(1, block_tokens // length)
        places = np.flatnonzero((padded == length) & (found > 0))
        for start in range(0, len(places), rows):
            yield LengthBlock(rows=rows, length=length, places=places[start : start + rows])
