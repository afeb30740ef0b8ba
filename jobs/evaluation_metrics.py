"""AUC and KS with intervals. Pure NumPy.

A figure is the mean over splits of the figure within a split: scores of two models never compare. Its interval is the
2.5 to 97.5 percentile over draws of persons with replacement, all rows of a person together; every score is measured on
the same draws, so differences and ratios have paired intervals. The models are not refitted: the interval speaks of the
people tested, not of the draw of the training rows. N rows, R draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation_splits import Split

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DRAWS = 500
ROWS_AT_ONCE = 4_000_000  # weights held at a time
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float

    def holds(self, figure: float) -> bool:
        return self.low <= figure <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Entry 0 is the figure itself, the others are the draws; (R + 1,) each."""

    auc: Floats
    ks: Floats


def person_draws(persons: Ints, *, draws: int = DRAWS, seed: int) -> NDArray[np.int16]:
    """(R + 1, persons): how often each draw takes each person; row 0 takes everyone once. Persons count from 0."""
    number = int(persons.max()) + 1
    taken = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=draws)
    return np.concatenate([np.ones((1, number), np.int16), taken.astype(np.int16)])


def measure(scores: Floats, labels: Ints, persons: Ints, splits: Sequence[Split], draws: NDArray[np.int16]) -> Measured:
    """Mean over splits; a split without both classes in a draw takes no part in that draw."""
    per_split = [_in_split(scores[s.test], labels[s.test], persons[s.test], draws) for s in splits]
    return Measured(auc=np.nanmean([auc for auc, _ in per_split], axis=0), ks=np.nanmean([ks for _, ks in per_split], axis=0))


def _in_split(scores: Floats, labels: Ints, persons: Ints, draws: NDArray[np.int16]) -> tuple[Floats, Floats]:
    size = max(1, ROWS_AT_ONCE // max(1, len(scores)))
    parts = [weighted_auc_ks(scores, labels, draws[i : i + size, persons].astype(np.float64)) for i in range(0, len(draws), size)]
    return np.concatenate([auc for auc, _ in parts]), np.concatenate([ks for _, ks in parts])


def weighted_auc_ks(scores: Floats, labels: Ints, weights: Floats) -> tuple[Floats, Floats]:
    """Per row of `weights` (R, N): AUC with ties counted half, and the largest distance of the classes' distributions. NaN without both classes."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # first row of each distinct score
    positive = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (1 - labels[order]), starts, axis=1)
    below_positive, below_negative = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    both = (below_positive[:, -1] > 0) & (below_negative[:, -1] > 0)
    total_positive = np.where(both, below_positive[:, -1], np.nan)
    total_negative = np.where(both, below_negative[:, -1], np.nan)
    auc = np.sum(positive * (below_negative - negative / 2), axis=1) / (total_positive * total_negative)
    ks = np.max(np.abs(below_positive / total_positive[:, None] - below_negative / total_negative[:, None]), axis=1)
    return auc, ks


def interval(values: Floats) -> Interval:
    """From a figure and its draws."""
    low, high = np.nanpercentile(values[1:], PERCENTILES)
    return Interval(value=float(values[0]), low=float(low), high=float(high))


def lift_kept(kept: Floats, whole: Floats) -> Interval | None:
    """(AUC kept - .5) / (AUC whole - .5); None where `whole` itself may predict nothing, as its interval reaches .5."""
    if interval(whole).low <= 0.5:
        return None
    return interval((kept - 0.5) / (whole - 0.5))
