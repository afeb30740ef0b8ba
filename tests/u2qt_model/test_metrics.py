"""Figures of codes on literal counts, at both ends of each scale."""

import numpy as np
import pytest

from u2qt_model.metrics import (
    code_counts,
    collision_rate,
    gini,
    level_report,
    margin_quantiles,
    perplexity,
    relative_squared_error,
    squared_errors,
    unique_sequence_rate,
    usage,
)

NONE, EVEN, ONE, SKEWED = np.zeros(4, int), np.full(4, 5), np.array([0, 0, 8, 0]), np.array([6, 2, 0, 0])


def test_counts_have_one_place_per_code() -> None:
    """Also for codes that don't occur, and for no slices."""
    assert code_counts(np.array([2, 0, 2], np.int16), 4).tolist() == [1, 0, 2, 0]
    assert code_counts(np.zeros(0, np.int64), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("counts", "expected"), [(NONE, 0), (EVEN, 1), (ONE, 0.25), (SKEWED, 0.5)])
def test_usage_is_the_share_that_occurs(counts: np.ndarray, expected: float) -> None:  # type: ignore[type-arg]
    """0 to 1."""
    assert usage(counts) == expected


@pytest.mark.parametrize(("counts", "expected"), [(NONE, 0), (EVEN, 4), (ONE, 1), (SKEWED, 4 / 3**0.75)])
def test_perplexity_is_the_effective_number(counts: np.ndarray, expected: float) -> None:  # type: ignore[type-arg]
    """1 to K; (3/4, 1/4) has 4 / 3^(3/4)."""
    assert perplexity(counts) == pytest.approx(expected)


@pytest.mark.parametrize(("counts", "expected"), [(NONE, 0), (EVEN, 0), (ONE, 0.75), (SKEWED, 0.625)])
def test_gini_is_inequality(counts: np.ndarray, expected: float) -> None:  # type: ignore[type-arg]
    """0 is even, 1 - 1/K is one code for all."""
    assert gini(counts) == pytest.approx(expected)


def test_unique_sequence_rate_counts_distinct_rows() -> None:
    """Equal rows are one; no rows are 0."""
    assert unique_sequence_rate(np.array([[1, 2], [1, 2], [2, 1], [0, 0]])) == 0.75
    assert unique_sequence_rate(np.zeros((0, 2), int)) == 0


def test_collisions_are_of_slices_that_differ() -> None:
    """Of three distinct slices two share a sequence; a slice that comes twice doesn't collide with itself."""
    x = np.array([[0.0], [0.0], [1.0], [2.0]])
    assert collision_rate(np.array([[1, 2], [1, 2], [1, 2], [3, 0]]), x) == pytest.approx(2 / 3)
    assert collision_rate(np.array([[1, 2], [1, 2], [0, 2], [3, 0]]), x) == 0
    assert collision_rate(np.zeros((0, 2), int), x[:0]) == 0


def test_margin_quantiles_are_per_level() -> None:
    """1st, 10th, 50th and 90th percentile; none without slices, the largest float32 stays finite."""
    margins = np.stack([np.linspace(0, 100, 101), np.full(101, np.finfo(np.float32).max)], axis=1).astype(np.float32)
    assert margin_quantiles(margins) == [pytest.approx([1, 10, 50, 90]), [pytest.approx(3.4028235e38)] * 4]
    assert margin_quantiles(margins[:0]) == [[], []]


def test_error_is_relative_to_the_training_mean() -> None:
    """0 is exact, 1 is no better than the origin, which is the training mean, also for a single slice."""
    x = np.array([[3.0, 4.0]], np.float32)
    assert squared_errors(x, x) == (0, 25)
    assert relative_squared_error(*squared_errors(x, np.zeros_like(x))) == 1
    assert relative_squared_error(*squared_errors(x, -x)) == 4
    assert squared_errors(x[:0], x[:0]) == (0, 0)
    assert relative_squared_error(0.0, 0.0) == 0


def test_errors_are_summed_in_double() -> None:
    """A large float32 array loses nothing."""
    x = np.full((10**6, 1), 0.1, np.float32)
    assert squared_errors(x, np.zeros_like(x))[1] == pytest.approx(10**6 * float(np.float32(0.1)) ** 2, rel=1e-12)


def test_level_report_names_its_figures() -> None:
    """Dead codes are those that don't occur."""
    report = level_report(np.array([0, 0, 0, 1]), 4)
    assert report == {"usage": 0.5, "perplexity": pytest.approx(4 / 3**0.75), "dead_codes": 2, "gini": pytest.approx(0.625)}
