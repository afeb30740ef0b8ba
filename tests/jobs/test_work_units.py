"""Sharing out row groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.work_units import balanced, write_tasks


@given(st.lists(st.integers(0, 10_000), max_size=60), st.integers(1, 16))
def test_every_unit_is_in_exactly_one_bin_and_bins_are_even(rows: list[int], bins: int) -> None:
    """A partition of the positions; no bin above the mean plus the largest unit; no empty bin."""
    shared = balanced(rows, bins)
    assert sorted(position for positions in shared for position in positions) == list(range(len(rows)))
    assert all(shared)
    heaviest = max((sum(rows[p] for p in positions) for positions in shared), default=0)
    assert heaviest <= sum(rows) / bins + max(rows, default=0)


def test_no_bins_is_a_mistake() -> None:
    """Zero tasks can hold nothing."""
    with pytest.raises(ValueError, match="1 or more"):
        balanced([1], 0)


def test_a_write_has_a_task_per_file_up_to_eight_per_slot() -> None:
    """One day stays one task; two years of days share sixteen."""
    assert [write_tasks(files, 2) for files in (0, 1, 7, 16, 730)] == [1, 1, 7, 16, 16]
