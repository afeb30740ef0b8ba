"""Which labels a model learns from and which it is tried on. Pure NumPy; every row is tried at most once.

N label rows. A stable attribute is split by person; a label about the future is split by time, with one label horizon
left out before each split, as the outcomes of those rows were not known yet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.errors import BadInput

Ints = NDArray[np.int64]
MIN_SPLITS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Row positions; no row stands in both."""

    train: Ints
    test: Ints


def person_folds(persons: Ints, labels: Ints, *, folds: int, seed: int) -> tuple[Split, ...]:
    """Every person in exactly one fold, the classes spread evenly. `BadInput` for fewer persons of a class than folds."""
    _require_enough(folds, "--folds")
    names, row_person = np.unique(persons, return_inverse=True)
    if len(names) < folds:
        raise BadInput(f"labels: found {len(names)} users, expected at least {folds}, one per fold; give more labelled users")
    share = np.bincount(row_person, weights=labels) / np.bincount(row_person)
    order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), share))
    fold_of_person = np.empty(len(names), np.int64)
    fold_of_person[order] = np.arange(len(names)) % folds
    fold = fold_of_person[row_person]
    splits = tuple(Split(train=np.flatnonzero(fold != k), test=np.flatnonzero(fold == k)) for k in range(folds))
    return _with_both_classes(splits, labels)


def time_splits(moments: Ints, labels: Ints, *, splits: int, horizon: int) -> tuple[Split, ...]:
    """Test periods follow each other and hold about as many rows each; `moments` and `horizon` in one unit.

    A split trains on the rows whose outcome was known at its start: moment + horizon <= start. The first period after
    the first horizon is never a test, so that the first split has something to learn from. `BadInput` for labels that
    span too short a time.
    """
    _require_enough(splits, "--folds")
    if horizon <= 0:
        raise BadInput(f"--horizon {horizon}: expected more than 0, the time after which a label's outcome is known")
    late = moments[moments >= moments.min() + horizon]
    cuts = np.unique(np.quantile(late, np.arange(1, splits + 1) / (splits + 1), method="higher")) if len(late) else late
    if len(cuts) < splits:
        raise BadInput(
            f"labels: found {len(np.unique(late))} moments later than the first horizon, expected {splits + 1} or more; label a longer time or fewer --folds"
        )
    ends = [*cuts[1:], moments.max() + 1]
    found = tuple(
        Split(train=np.flatnonzero(moments + horizon <= start), test=np.flatnonzero((moments >= start) & (moments < end)))
        for start, end in zip(cuts, ends, strict=True)
    )
    return _with_both_classes(found, labels)


def _require_enough(splits: int, option: str) -> None:
    if splits < MIN_SPLITS:
        raise BadInput(f"{option} {splits}: expected at least {MIN_SPLITS}, or an interval says nothing")


def _with_both_classes(splits: tuple[Split, ...], labels: Ints) -> tuple[Split, ...]:
    for number, split in enumerate(splits, start=1):
        for part, rows in (("train", split.train), ("test", split.test)):
            positive = int(labels[rows].sum())
            if positive in (0, len(rows)):
                raise BadInput(
                    f"labels, split {number}: its {part} part has {positive} positive of {len(rows)} rows, expected both classes; give more of the rarer class"
                )
    return splits
