"""Feature rows to checked arrays: what Petastorm and pandas give, and what is refused without showing content."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from u2qt_model import FeatureBatch, FeatureLayout
from u2qt_model.errors import BatchError

Columns = dict[str, np.ndarray[Any, Any]]


def _objects(rows: list[Any]) -> np.ndarray[Any, Any]:
    column = np.empty(len(rows), object)
    column[:] = rows
    return column


def test_petastorm_and_pandas_columns_give_the_same_batch(make_columns: Callable[..., Columns], layout: FeatureLayout) -> None:
    """Lists may be a 2-d array or objects."""
    columns = make_columns(5)
    as_objects = {name: _objects(list(column)) if column.ndim == 2 else column for name, column in columns.items()}
    flat, nested = FeatureBatch.from_columns(columns, layout), FeatureBatch.from_columns(as_objects, layout)
    np.testing.assert_array_equal(flat.profile("profile").values, nested.profile("profile").values)
    assert flat.events("bill").event_ids is not None
    assert nested.events("bill").event_ids is not None
    np.testing.assert_array_equal(flat.events("bill").event_ids, nested.events("bill").event_ids)


def test_shapes_and_presence(make_columns: Callable[..., Columns], layout: FeatureLayout) -> None:
    """Present means a count above 0; event arrays are (B, E, F) and (B, E, V)."""
    columns = make_columns(4)
    columns["bill_count"] = np.array([0, 1, 0, 9], np.int64)
    batch = FeatureBatch.from_columns(columns, layout)
    bill = batch.events("bill")
    assert bill.present.tolist() == [False, True, False, True]
    assert bill.event_ids is not None
    assert bill.event_values is not None
    assert bill.mask is not None
    assert (bill.event_ids.shape, bill.event_values.shape, bill.mask.shape) == ((4, 3, 2), (4, 3, 1), (4, 3))
    assert batch.profile("profile").values.shape == (4, 3)


def test_keys_and_event_arrays_may_be_left_out(make_columns: Callable[..., Columns], layout: FeatureLayout) -> None:
    """The columns that a text tokenizer needs are enough."""
    columns = make_columns(2)
    batch = FeatureBatch.from_columns({name: columns[name] for name in layout.columns()}, layout)
    assert (batch.user_id, batch.row_hash, batch.available_at, batch.events("bill").event_ids) == (None, None, None, None)


def test_no_rows_is_a_batch(make_columns: Callable[..., Columns], layout: FeatureLayout) -> None:
    """An empty row group isn't an error."""
    columns = {name: column[:0] for name, column in make_columns(1).items()}
    assert FeatureBatch.from_columns(columns, layout).num_users == 0


def _spoil(columns: Columns, name: str, row: int, value: object) -> None:
    columns[name] = columns[name].copy()
    columns[name][row] = value


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("profile_values", np.nan, "finite"),
        ("bill_event_values", np.inf, "finite"),
        ("profile_ids", 1001, r"ids in \[0, 1000\]"),
        ("bill_event_ids", -1, "ids in"),
        ("bill_text", None, "never null"),
        ("bill_text", "str", "UTF-8 bytes"),
        ("user_id", None, "never null"),
        ("available_at", np.datetime64("NaT"), "never null"),
    ],
)
def test_bad_value_is_refused_by_row_hash(make_columns: Callable[..., Columns], layout: FeatureLayout, name: str, value: object, word: str) -> None:
    """Column and row hash are named, never content."""
    columns = make_columns(6)
    columns["row_hash"][3] = 424242
    _spoil(columns, name, 3, value)
    with pytest.raises(BatchError, match=rf"{name}: row_hash 424242: expected .*{word}.*1 of 6 rows") as caught:
        FeatureBatch.from_columns(columns, layout)
    assert "item" not in str(caught.value)
    assert "user-" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "column", "word"),
    [
        ("bill_count", np.array([1.0, np.nan]), "expected integers without nulls"),
        ("row_hash", np.array([1.0, 2.0]), "expected integers without nulls"),
        ("bill_text", np.array([b"a", b"b"]), "fixed-width bytes"),
        ("available_at", np.array([1, 2]), "expected timestamps"),
        ("profile_values", np.ones((2, 4), np.float32), "found lists of length 4, expected 3"),
        ("profile_values", _objects([[1.0, 2, 3], [1.0]]), "found 1, expected a list of length 3"),
        ("profile_values", _objects([[1.0, 2, 3], None]), "never null"),
        ("profile_ids", np.ones((2, 2)), "found list elements of type float64"),
        ("bill_count", np.array([1]), "found 1 rows, expected 2"),
        ("bill_count", np.array([1, 2**32 + 1]), "found integers beyond int32"),
        ("profile_ids", np.full((2, 2), 2**32 + 5), "found integers beyond int32"),
        ("row_hash", np.full(2, 2**63, np.uint64), "found integers beyond int64"),
        ("profile_values", np.full((2, 3), 1e39), "finite numbers"),
    ],
)
def test_bad_column_is_refused(make_columns: Callable[..., Columns], layout: FeatureLayout, name: str, column: np.ndarray[Any, Any], word: str) -> None:
    """The message names the column, what was found and what was expected."""
    with pytest.raises(BatchError, match=rf"{name}: .*{word}"):
        FeatureBatch.from_columns(make_columns(2) | {name: column}, layout)


def test_missing_column_is_refused(make_columns: Callable[..., Columns], layout: FeatureLayout) -> None:
    """So is a batch of no columns at all."""
    columns = make_columns(1)
    del columns["bill_text"]
    with pytest.raises(BatchError, match="bill_text: column missing"):
        FeatureBatch.from_columns(columns, layout)
    with pytest.raises(BatchError, match="no columns"):
        FeatureBatch.from_columns({}, layout)


def test_row_number_stands_in_for_a_missing_hash(make_columns: Callable[..., Columns], layout: FeatureLayout) -> None:
    """Without row_hash the row's number is named."""
    columns = make_columns(3)
    del columns["row_hash"]
    _spoil(columns, "profile_values", 2, np.nan)
    with pytest.raises(BatchError, match="profile_values: row 2:"):
        FeatureBatch.from_columns(columns, layout)


def test_kinds_are_not_mixed_up(make_batch: Callable[..., FeatureBatch]) -> None:
    """A profile has no texts and an event source no profile values."""
    with pytest.raises(BatchError, match="expected an event source"):
        make_batch(1).events("profile")
    with pytest.raises(BatchError, match="expected a profile"):
        make_batch(1).profile("bill")
