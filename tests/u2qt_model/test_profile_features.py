"""A profile row as one vector."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model.profile_features import hashed_ids, profile_vectors, splitmix64


def _ids(*rows: list[int]) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(rows, np.int32)


def test_values_are_compressed_and_ids_follow() -> None:
    """sign(x) log(1 + |x|), odd and finite over all of float32."""
    values = np.array([[0.0, 1.0, -1.0, np.finfo(np.float32).max]], np.float32)
    found = profile_vectors(values, _ids([1, 2]), 8)
    assert (found.dtype, found.shape) == (np.float32, (1, 12))
    np.testing.assert_allclose(found[0, :4], [0, np.log(2), -np.log(2), 88.72284], rtol=1e-5)
    np.testing.assert_array_equal(found[:, 4:], hashed_ids(_ids([1, 2]), 8))


def test_padding_adds_nothing() -> None:
    """Id 0 in any field."""
    assert not hashed_ids(_ids([0, 0, 0]), 16).any()
    np.testing.assert_array_equal(hashed_ids(_ids([5, 0]), 16), hashed_ids(_ids([5]), 16))


def test_same_id_in_another_field_is_another_feature() -> None:
    """Field and id are hashed together."""
    first, second = hashed_ids(_ids([7, 0], [0, 7]), 4096)
    assert np.flatnonzero(first).tolist() != np.flatnonzero(second).tolist()


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(1, 40))
def test_each_id_is_one_signed_count(rows: list[list[int]], buckets: int) -> None:
    """Row by row, whatever the other rows are."""
    found = hashed_ids(_ids(*rows), buckets)
    for row, vector in zip(rows, found, strict=True):
        np.testing.assert_array_equal(hashed_ids(_ids(row), buckets)[0], vector)
        assert np.abs(vector).sum() <= sum(value > 0 for value in row)


def test_empty_shapes_are_kept() -> None:
    """No rows, or no fields."""
    assert hashed_ids(np.zeros((0, 3), np.int32), 4).shape == (0, 4)
    assert hashed_ids(np.zeros((2, 0), np.int32), 4).tolist() == [[0.0] * 4] * 2


def test_mixing_is_pinned_and_a_bijection() -> None:
    """The published first output of the generator started at 0, and no collision."""
    keys = np.arange(10000, dtype=np.uint64)
    assert hex(int(splitmix64(keys[:1])[0])) == "0xe220a8397b1dcdaf"
    assert len(np.unique(splitmix64(keys))) == 10000
