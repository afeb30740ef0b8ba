"""Which rank reads what: every row group once, in shares as even as row groups allow."""

from hypothesis import given
from hypothesis import strategies as st

from u2qt_model.training_job import TrainingFile, row_group_shares

ROW_GROUPS = st.lists(st.integers(1, 10_000), min_size=1, max_size=6).map(tuple)
FILES = st.lists(ROW_GROUPS, max_size=8).map(lambda all_rows: [TrainingFile(url=f"file:///{i}", row_groups=rows) for i, rows in enumerate(all_rows)])


@given(files=FILES, ranks=st.integers(1, 5))
def test_every_row_group_has_one_rank(files: list[TrainingFile], ranks: int) -> None:
    """No two shares meet; a rank keeps the order of files and row groups; the same input gives the same shares."""
    shares = row_group_shares(files, ranks)
    assert len(shares) == ranks
    found = [(unit.url, unit.shard) for share in shares for unit in share]
    assert sorted(found) == sorted((file.url, shard) for file in files for shard in range(len(file.row_groups)))
    assert all([(unit.url, unit.shard) for unit in share] == sorted((unit.url, unit.shard) for unit in share) for share in shares)
    assert shares == row_group_shares(files, ranks)


@given(files=FILES, ranks=st.integers(1, 5))
def test_shares_are_even(files: list[TrainingFile], ranks: int) -> None:
    """They differ by no more than the largest row group."""
    rows = [sum(unit.rows or 0 for unit in share) for share in row_group_shares(files, ranks)]
    assert max(rows) - min(rows) <= max((max(file.row_groups) for file in files), default=0)


def test_fewer_row_groups_than_ranks_leave_ranks_without() -> None:
    """Which then take part without rows."""
    (first, second) = row_group_shares([TrainingFile(url="file:///a", row_groups=(7,))], 2)
    assert ([unit.rows for unit in first], second) == ([7], [])
