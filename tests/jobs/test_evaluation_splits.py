"""Folds of persons and splits by time on synthetic rows."""

import numpy as np
import pytest

from jobs.errors import BadInput
from jobs.evaluation_splits import person_folds, time_splits


def test_a_person_is_on_one_side_of_a_fold_and_is_tried_once() -> None:
    """Three rows a person: no person is learned from and tried in the same fold; the folds share the classes evenly."""
    persons = np.repeat(np.arange(50), 3)
    labels = (persons % 5 == 0).astype(np.int64)
    folds = person_folds(persons, labels, folds=5, seed=1)
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(150))
    for fold in folds:
        assert not set(persons[fold.train]) & set(persons[fold.test])
        assert labels[fold.test].sum() == 6


def test_nothing_is_learned_from_outcomes_not_known_at_a_splits_start() -> None:
    """One horizon lies between the last row learned from and the first one tried; periods follow each other."""
    moments, persons = np.repeat(np.arange(100), 8), np.tile(np.arange(8), 100)
    labels = (np.arange(800) // 3) % 2
    splits = time_splits(persons, moments, labels, splits=6, horizon=10, seed=0)
    assert len(splits) == 12
    for split in splits:
        assert moments[split.train].max() + 10 <= moments[split.test].min()
        assert not set(persons[split.train]) & set(persons[split.test])
    for one, other in zip(splits[::2], splits[1::2], strict=True):
        assert set(moments[one.test]) == set(moments[other.test])
    for before, after in zip(splits[::2], splits[2::2], strict=False):
        assert moments[before.test].max() < moments[after.test].min()
    assert moments[splits[-1].test].max() == 99
    tried = np.concatenate([s.test for s in splits])
    assert len(tried) == len(set(tried))


@pytest.mark.parametrize(
    ("users", "folds", "message"),
    [(4, 5, "found 4 users, expected at least 5"), (30, 3, "--folds 3: expected at least 5")],
)
def test_too_few_users_or_folds_are_refused(users: int, folds: int, message: str) -> None:
    """An interval needs folds, a fold needs users."""
    with pytest.raises(BadInput, match=message):
        person_folds(np.arange(users), np.arange(users) % 2, folds=folds, seed=0)


def test_a_class_that_is_missing_in_a_part_is_refused() -> None:
    """Two positives can't stand in the test part of five folds."""
    with pytest.raises(BadInput, match=r"split 1: its test part has 0 positive of 6 rows, expected both classes"):
        person_folds(np.arange(30), (np.arange(30) < 2).astype(np.int64), folds=5, seed=0)


@pytest.mark.parametrize(("horizon", "message"), [(200, "found 0 moments later than the first horizon, expected 6"), (0, "--horizon 0: expected more than 0")])
def test_a_horizon_that_leaves_no_splits_is_refused(horizon: int, message: str) -> None:
    """Labels over 100 days can't be split with an outcome known after 200."""
    with pytest.raises(BadInput, match=message):
        time_splits(np.arange(100) % 9, np.arange(100), np.arange(100) % 2, splits=5, horizon=horizon, seed=0)
