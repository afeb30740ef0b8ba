"""What is reported of codes: usage, perplexity, dead codes, Gini, unique sequences, relative squared error. Pure NumPy.

N slices, L levels, K codes, D dimensions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MARGIN_QUANTILES = (0.01, 0.1, 0.5, 0.9)


def code_counts(codes: Array, size: int) -> NDArray[np.int64]:
    """(K,) how often each code of (N,) occurs."""
    return np.bincount(codes, minlength=size)


def usage(counts: Array) -> float:
    """Share of the K codes that occur, 0 to 1."""
    return float((counts > 0).mean())


def perplexity(counts: Array) -> float:
    """exp of the entropy of the codes: 1 to K; 0 for no slices."""
    total = counts.sum()
    shares = counts[counts > 0] / max(total, 1)
    return float(np.exp(-(shares * np.log(shares)).sum())) if total else 0.0


def gini(counts: Array) -> float:
    """Inequality of the codes' numbers: 0 is even, towards 1 is one code for all; 0 for no slices."""
    total, size = counts.sum(), len(counts)
    ranks = np.arange(1, size + 1)
    return float((2 * (ranks * np.sort(counts)).sum() / total - size - 1) / size) if total else 0.0


def unique_sequence_rate(codes: Array) -> float:
    """Share of the distinct code sequences among (N, L) slices, 0 to 1; 0 for no slices."""
    return len(np.unique(codes, axis=0)) / len(codes) if len(codes) else 0.0


def collision_rate(codes: Array, x: Array) -> float:
    """Share of the distinct slices among (N, D) whose sequence (N, L) another of them has too, 0 to 1; 0 for no slices."""
    if not len(x):
        return 0.0
    _, first = np.unique(x, axis=0, return_index=True)
    _, sizes = np.unique(codes[first], axis=0, return_counts=True)
    return float(sizes[sizes > 1].sum() / len(first))


def margin_quantiles(margins: Array) -> list[list[float]]:
    """(L, 4), MARGIN_QUANTILES of the margins (N, L) of each level; L empty lists for no slices."""
    return [np.quantile(level, MARGIN_QUANTILES).tolist() if len(level) else [] for level in margins.astype(np.float64).T]


def squared_errors(x: Array, reconstruction: Array) -> tuple[float, float]:
    """Squared error of (N, D) and the squared length that it is relative to, both summed.

    The origin of projected slices is their training mean. The mean of `x` itself would make one slice look exact.
    """
    wide = x.astype(np.float64)
    return float(np.square(wide - reconstruction).sum()), float(np.square(wide).sum())


def relative_squared_error(error: float, length: float) -> float:
    """error / length: 0 is exact, 1 is no better than the training mean; 0 where all slices are that mean."""
    return error / length if length > 0 else 0.0


def level_report(codes: Array, size: int) -> dict[str, Any]:
    """Usage, perplexity, dead codes and Gini of the codes (N,) of one level."""
    counts = code_counts(codes, size)
    return {
        "usage": usage(counts),
        "perplexity": perplexity(counts),
        "dead_codes": int((counts == 0).sum()),
        "gini": gini(counts),
    }
