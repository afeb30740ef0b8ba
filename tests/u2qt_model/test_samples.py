"""One pass over a stream: uniform samples, exact moments, and users held out by their id."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model.samples import Moments, Reservoir, held_out_users


def _rows(count: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.arange(count, dtype=np.float32)[:, None]


def _sampled(size: int, count: int, cuts: list[int], seed: int) -> list[float]:
    reservoir = Reservoir(size, 1, np.random.default_rng(seed))
    for part in np.split(_rows(count), sorted(cuts)):
        reservoir.offer(part)
    return list(reservoir.rows()[:, 0])


@settings(max_examples=30)
@given(size=st.integers(1, 20), count=st.integers(0, 60), cuts=st.lists(st.integers(0, 60), max_size=5), seed=st.integers(0, 2**32))
def test_sample_is_a_subset_whatever_the_batches(size: int, count: int, cuts: list[int], seed: int) -> None:
    """min(size, count) different rows, and the same ones for every split of the same order."""
    sample = _sampled(size, count, cuts, seed)
    assert len(sample) == len(set(sample)) == min(size, count)
    assert set(sample) <= set(range(count))
    assert set(sample) == set(_sampled(size, count, [], seed))


def test_every_row_is_equally_likely() -> None:
    """First, last and middle rows of 40: 10 are kept, 2,000 times. Standard deviation of a count is 19.4."""
    kept = np.zeros(40)
    for seed in range(2000):
        kept[np.array(_sampled(10, 40, [5, 9, 33], seed), int)] += 1
    assert kept.sum() == 20000
    assert np.abs(kept - 500).max() < 4.5 * 19.4


def test_same_batches_give_the_same_array() -> None:
    """Order included; another seed gives another sample."""
    assert _sampled(8, 50, [10, 20], 3) == _sampled(8, 50, [10, 20], 3)
    assert _sampled(8, 50, [10, 20], 3) != _sampled(8, 50, [10, 20], 4)


def test_sample_does_not_grow_with_the_stream() -> None:
    """Nor is it the caller's array."""
    reservoir = Reservoir(4, 1, np.random.default_rng(0))
    for _ in range(50):
        offered = _rows(100)
        reservoir.offer(offered)
        offered[:] = -1
    assert reservoir.rows().shape == (4, 1)
    assert (reservoir.rows() >= 0).all()


def test_moments_are_those_of_all_rows() -> None:
    """In float64, whatever the batches."""
    rows = np.random.default_rng(0).normal(3, 2, (1000, 4)).astype(np.float32)
    moments = Moments(4)
    for part in np.array_split(rows, 7):
        moments.add(part)
    assert moments.count == 1000
    np.testing.assert_allclose(moments.mean(), rows.astype(float).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance(), rows.astype(float).var(axis=0), rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -88.7, 0.57735026])
def test_constant_has_no_variance(value: float) -> None:
    """Rounding doesn't make one."""
    moments = Moments(1)
    for _ in range(10):
        moments.add(np.full((33333, 1), value, np.float32))
    assert moments.variance().tolist() == [0.0]


def test_no_rows_have_zero_moments() -> None:
    """No division by zero."""
    moments = Moments(2)
    moments.add(np.zeros((0, 2), np.float32))
    assert (moments.count, moments.mean().tolist(), moments.variance().tolist()) == (0, [0, 0], [0, 0])


def _ids(count: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array([f"user-{i}".encode() for i in range(count)], object)


def test_users_are_held_out_by_id() -> None:
    """Alone or among others, and in the share asked for."""
    held_out = held_out_users(_ids(5000), 0.1, 7)
    assert [bool(held_out_users(np.array([user], object), 0.1, 7)[0]) for user in _ids(50)] == held_out[:50].tolist()
    assert 400 < held_out.sum() < 600
    assert held_out_users(_ids(0), 0.1, 7).shape == (0,)
    assert not held_out_users(_ids(100), 0.0, 7).any()


def test_another_seed_holds_out_other_users() -> None:
    """And a larger share holds out the same and more."""
    tenth, other, fifth = (held_out_users(_ids(5000), share, seed) for share, seed in ((0.1, 7), (0.1, 8), (0.2, 7)))
    assert 0 < (tenth & other).sum() < 100
    assert (fifth | ~tenth).all()
