"""Which labels a model learns from and which it is tried on. Pure NumPy; every row is tried at most once.

N label rows. No person is learned from and tried in one split. A label about the future is split by time too, with one
label horizon left out before each split, as the outcomes of those rows were not known yet.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.errors import BadInput

Ints = NDArray[np.int64]
MIN_SPLITS = 5
HALVES = 2  # of the persons, in splits by time: each is tried by what was learned from the other


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Row positions; no row stands in both."""

    train: Ints
    test: Ints


def person_folds(persons: Ints, labels: Ints, *, folds: int, seed: int) -> tuple[Split, ...]:
    """Every person in exactly one fold, the classes spread evenly. `BadInput` for fewer persons of a class than folds."""
    _require_enough(folds, "--folds")
    number = len(np.unique(persons))
    if number < folds:
        raise BadInput(f"labels: found {number} users, expected at least {folds}, one per fold; give more labelled users")
    fold = _dealt(persons, labels, folds, seed)
    splits = tuple(Split(train=np.flatnonzero(fold != k), test=np.flatnonzero(fold == k)) for k in range(folds))
    return _with_both_classes(splits, labels)


def _dealt(persons: Ints, labels: Ints, parts: int, seed: int) -> Ints:
    """(N,) part of each row, the same for all rows of a person; parts get like shares of both classes."""
    names, row_person = np.unique(persons, return_inverse=True)
    share = np.bincount(row_person, weights=labels) / np.bincount(row_person)
    part_of_person = np.empty(len(names), np.int64)
    part_of_person[np.lexsort((np.random.default_rng(seed).permutation(len(names)), share))] = np.arange(len(names)) % parts
    return np.asarray(part_of_person[row_person], np.int64)


def time_splits(persons: Ints, moments: Ints, labels: Ints, *, splits: int, horizon: int, seed: int) -> tuple[Split, ...]:
    """Two for each test period, one per half of the persons; periods follow each other and hold about as many rows each.

    A split trains on rows of the other half whose outcome was known at its start: moment + horizon <= start, both in one
    unit. The first period after the first horizon is never a test, so that the first split has something to learn from.
    `BadInput` for labels that span too short a time.
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
    half = _dealt(persons, labels, HALVES, seed)
    found = tuple(
        Split(train=np.flatnonzero((moments + horizon <= start) & (half != h)), test=np.flatnonzero((moments >= start) & (moments < end) & (half == h)))
        for start, end in zip(cuts, [*cuts[1:], moments.max() + 1], strict=True)
        for h in range(HALVES)
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
