"""FeatureBatch: some rows of `user_features` as checked NumPy arrays. Knows nothing of files, text encoders or torch.

B users, E event slots, F hashed fields, V numeric fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from u2qt_model.config import FeatureLayout, SourceLayout
from u2qt_model.errors import BatchError

Objects = NDArray[np.object_]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EventSlices:
    """One event source. The event arrays are None where their columns weren't given."""

    present: Bools  # (B,) the source has events
    texts: Objects  # (B,) UTF-8 bytes, empty where absent
    event_ids: Ints | None = None  # (B, E, F), 0 is padding
    event_values: Floats | None = None  # (B, E, V)
    mask: Bools | None = None  # (B, E), True is an event


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileSlices:
    """The tabular source."""

    present: Bools  # (B,)
    ids: Ints  # (B, F), 0 is padding
    values: Floats  # (B, V)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureBatch:
    """B users; keys are None where their columns weren't given."""

    num_users: int  # B
    slices: Mapping[str, EventSlices | ProfileSlices]  # by source, catalog order
    user_id: Objects | None = None  # (B,) UTF-8 bytes
    row_hash: NDArray[np.int64] | None = None  # (B,)
    available_at: NDArray[np.datetime64] | None = None  # (B,) microseconds, UTC

    @classmethod
    def from_columns(cls, columns: Columns, layout: FeatureLayout) -> "FeatureBatch":
        """The batch held by `user_features` columns, lists as 2-d arrays (Petastorm) or objects (pandas).

        Present means count > 0. Raises BatchError, naming column and row hash, for a missing column, a null, NaN or
        infinity, a list of another length, a text that isn't bytes, or an id outside [0, hash_buckets].
        """
        if not len(columns):
            raise BatchError("no columns, expected those of user_features")
        reader = _Reader(columns, layout.hash_buckets)
        slices = {source.name: reader.slices(source) for source in layout.sources}
        return cls(
            num_users=reader.num_users,
            slices=slices,
            user_id=reader.byte_strings("user_id") if "user_id" in columns else None,
            row_hash=reader.row_hash,
            available_at=reader.times("available_at") if "available_at" in columns else None,
        )

    def events(self, source: str) -> EventSlices:
        """An event source's slices; BatchError for another kind."""
        found = self.slices[source]
        if not isinstance(found, EventSlices):
            raise BatchError(f"{source}: found a profile, expected an event source")
        return found

    def profile(self, source: str) -> ProfileSlices:
        """A profile source's slices; BatchError for another kind."""
        found = self.slices[source]
        if not isinstance(found, ProfileSlices):
            raise BatchError(f"{source}: found an event source, expected a profile")
        return found


class _Reader:
    """Checked access to one batch's columns."""

    def __init__(self, columns: Columns, hash_buckets: int) -> None:
        self._columns = columns
        self._hash_buckets = hash_buckets
        self.num_users = len(next(iter(columns.values())))
        self.row_hash: NDArray[np.int64] | None = None
        if "row_hash" in columns:
            self.row_hash = self.integers("row_hash", np.int64)

    def slices(self, source: SourceLayout) -> EventSlices | ProfileSlices:
        present: Bools = self.integers(f"{source.name}_count", np.int32) > 0
        if source.kind == "profile":
            ids = self.lists(f"{source.name}_ids", source.num_ids, np.int32)
            self._check(self._bad_ids(ids), f"{source.name}_ids", self._id_range)
            return ProfileSlices(present=present, ids=ids, values=self.floats(f"{source.name}_values", source.num_values))
        texts = self.byte_strings(f"{source.name}_text")
        if f"{source.name}_event_ids" not in self._columns:
            return EventSlices(present=present, texts=texts)
        rows, slots = self.num_users, source.max_events
        ids = self.lists(f"{source.name}_event_ids", slots * source.num_ids, np.int32)
        self._check(self._bad_ids(ids), f"{source.name}_event_ids", self._id_range)
        values = self.floats(f"{source.name}_event_values", slots * source.num_values)
        mask = self.lists(f"{source.name}_mask", slots, np.int32)
        return EventSlices(
            present=present,
            texts=texts,
            event_ids=ids.reshape(rows, slots, source.num_ids),
            event_values=values.reshape(rows, slots, source.num_values),
            mask=mask > 0,
        )

    def integers(self, name: str, dtype: Any) -> Any:
        """(B,) integers; a nullable column arrives as floats or objects and is refused unless every value is whole."""
        column = self._column(name)
        if column.dtype.kind in "iu":
            return self._narrowed(column, name, dtype)
        kind = f"{column.dtype}; nullable integers lose digits on the way"
        raise BatchError(f"{name}: found {kind}, expected integers without nulls")

    def byte_strings(self, name: str) -> Objects:
        column = self._column(name)
        if column.dtype.kind == "S":
            raise BatchError(f"{name}: found fixed-width bytes, which lose trailing NULs; expected an object array of bytes")
        if not set(map(type, column)) <= {bytes}:
            wrong = np.array([type(value) is not bytes for value in column])
            self._check(wrong, name, "UTF-8 bytes (BINARY), never null or str")
        return column.astype(object, copy=False)

    def times(self, name: str) -> NDArray[np.datetime64]:
        column = self._column(name)
        if column.dtype.kind != "M":
            raise BatchError(f"{name}: found {column.dtype}, expected timestamps")
        self._check(np.isnat(column), name, "a time, never null")
        return column.astype("datetime64[us]")

    def floats(self, name: str, length: int) -> Floats:
        values: Floats = self.lists(name, length, np.float32)
        self._check(~np.isfinite(values).all(axis=1), name, "finite numbers, no NaN and no infinity")
        return values

    def lists(self, name: str, length: int, dtype: Any) -> Any:
        """(B, length) from a 2-d array, or from an object array of equally long lists."""
        column = self._column(name)
        if column.ndim == 2:
            if column.shape[1] != length:
                raise BatchError(f"{name}: found lists of length {column.shape[1]}, expected {length}")
            return self._cast(np.ascontiguousarray(column), name, dtype)
        if type(None) in set(map(type, column)):
            self._check(np.array([row is None for row in column]), name, f"a list of length {length}, never null")
        sizes = np.fromiter(map(np.size, column), dtype=np.int64, count=len(column))
        self._check(sizes != length, name, f"a list of length {length}", sizes)
        flat = np.concatenate(list(column)) if len(column) and length else np.empty(0, dtype)
        return self._cast(flat, name, dtype).reshape(len(column), length)

    def _cast(self, values: NDArray[Any], name: str, dtype: Any) -> NDArray[Any]:
        kinds = "iub" if np.dtype(dtype).kind == "i" else "iuf"
        if values.size and values.dtype.kind not in kinds:
            raise BatchError(f"{name}: found list elements of type {values.dtype}, expected {np.dtype(dtype).name} without nulls")
        return self._narrowed(values, name, dtype)

    def _narrowed(self, values: NDArray[Any], name: str, dtype: Any) -> NDArray[Any]:
        """As `dtype`; BatchError for an integer that doesn't fit, infinity for a float that doesn't."""
        with np.errstate(over="ignore"):
            cast = values.astype(dtype, copy=False)
        if np.dtype(dtype).kind == "i" and cast.dtype != values.dtype and (cast != values).any():
            raise BatchError(f"{name}: found integers beyond {np.dtype(dtype).name}, expected smaller ones")
        return cast

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            raise BatchError(f"{name}: column missing, found {sorted(self._columns)}")
        column = np.asarray(self._columns[name])
        if len(column) != self.num_users:
            raise BatchError(f"{name}: found {len(column)} rows, expected {self.num_users} as in the first column")
        return column

    @property
    def _id_range(self) -> str:
        return f"ids in [0, {self._hash_buckets}]"

    def _bad_ids(self, ids: Ints) -> Bools:
        bad: Bools = ((ids < 0) | (ids > self._hash_buckets)).any(axis=1)
        return bad

    def _check(self, wrong: Bools, name: str, expected: str, found: NDArray[Any] | None = None) -> None:
        """BatchError for the first wrong row; shows `found`, a property of the rows, but never their content."""
        if not wrong.any():
            return
        row = int(np.argmax(wrong))
        label = f"row {row}" if self.row_hash is None else f"row_hash {self.row_hash[row]}"
        shown = "" if found is None else f" found {found[row]},"
        raise BatchError(f"{name}: {label}:{shown} expected {expected}; {int(wrong.sum())} of {len(wrong)} rows are wrong")
