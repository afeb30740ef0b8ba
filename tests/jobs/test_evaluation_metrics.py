"""AUC, KS, intervals and lift kept, against scikit-learn, SciPy and arithmetic by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from jobs.evaluation_metrics import interval, lift_kept, measure, person_draws, weighted_auc_ks
from jobs.evaluation_splits import person_folds


def test_auc_and_ks_equal_those_of_the_libraries_with_ties_and_weights() -> None:
    """A weight of 2 is the row twice."""
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 12, 200).astype(np.float64), random.integers(0, 2, 200)
    weights = random.integers(0, 4, (3, 200)).astype(np.float64)
    auc, ks = weighted_auc_ks(scores, labels, weights)
    for draw in range(3):
        rows = np.repeat(np.arange(200), weights[draw].astype(int))
        s, y = scores[rows], labels[rows]
        assert auc[draw] == pytest.approx(roc_auc_score(y, s))
        assert ks[draw] == pytest.approx(stats.ks_2samp(s[y == 1], s[y == 0]).statistic)


def test_a_draw_without_both_classes_has_no_figure() -> None:
    """NaN, which the mean over splits leaves out."""
    auc, ks = weighted_auc_ks(np.array([0.1, 0.2]), np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert np.isnan(auc[0])
    assert np.isnan(ks[0])
    assert auc[1] == ks[1] == 1


def test_draws_take_whole_persons_and_start_with_everyone() -> None:
    """Row 0 is the sample itself; every draw has as many persons as the sample."""
    draws = person_draws(np.array([0, 0, 1, 2]), draws=50, seed=0)
    assert draws.shape == (51, 3)
    assert draws[0].tolist() == [1, 1, 1]
    assert set(draws.sum(axis=1)) == {3}


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Two rows a person, AUC .7602 by construction (normal scores 1 apart): 86 to 100 of 100 intervals hold it."""
    held, truth = 0, stats.norm.cdf(1 / np.sqrt(2))
    for seed in range(100):
        random = np.random.default_rng(seed)
        persons = np.repeat(np.arange(100), 2)
        labels = persons % 2
        scores = labels + random.normal(size=200)
        folds = person_folds(persons, labels, folds=5, seed=0)
        held += interval(measure(scores, labels, persons, folds, person_draws(persons, draws=100, seed=seed)).auc).holds(truth)
    assert 86 <= held <= 100


def test_lift_kept_is_a_paired_ratio_and_says_nothing_where_the_floats_predict_nothing() -> None:
    """.7 against .9 is half; floats whose interval reaches .5 give no ratio."""
    whole = np.array([0.9, 0.88, 0.92])
    found = lift_kept(0.5 + (whole - 0.5) / 2, whole)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert lift_kept(whole, np.array([0.52, 0.49, 0.55])) is None
