"""What runs in an executor's Python for `evaluate_tokens`: feature rows to vectors, and sequences pooled over a window.

Knows nothing of tables. A pooled source is the mean of its slices with weights that halve every half window, so a drifting
interest shows; tokens, decoded vectors and floats are pooled alike. B label rows, n slices, S sources, L levels of the
source that has most, D code dimension, V tokens: each source's levels' codes side by side, one source after the other.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F
from scipy import sparse

from jobs.encoding import FrozenTokenizer
from u2qt_model import FeatureBatch, Tokenizer

Batches = Iterable[pa.RecordBatch]
Floats = NDArray[np.float32]
KEPT = ("label_id", "newest_day", "newest_available")  # pass through as they come
POOLED = "label_id int, newest_day date, newest_available bigint, vectors array<float>, activity array<float>"
POOLED_TOKENS = f"{POOLED}, positions array<int>, weights array<float>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooling:
    """How a window becomes one row."""

    sources: tuple[str, ...]
    window_days: int  # N
    lag_days: int  # age of the youngest day that a label may see

    @property
    def half_life(self) -> float:
        """Days after which a slice weighs half."""
        return self.window_days / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Slices:
    """The slices of a batch of labels, label after label."""

    rows: NDArray[np.int64]  # (n,) position of the label in the batch
    sources: NDArray[np.int64]  # (n,)
    ages: NDArray[np.int64]  # (n,) days before the youngest day that the label may see
    values: NDArray[Any]  # (n, L) codes, -1 below a source's last level, or (n, D) vectors

    @classmethod
    def of(cls, batch: pa.RecordBatch, pooling: Pooling) -> "Slices":
        """From columns day and sequence."""
        lists = batch.column("sequence")
        entries = lists.flatten()
        codes = entries.field("codes")
        rows = np.repeat(np.arange(batch.num_rows), pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))
        day = batch.column("day").cast(pa.int32()).to_numpy(zero_copy_only=False)
        ds = entries.field("ds").cast(pa.int32()).to_numpy(zero_copy_only=False)
        names = pc.index_in(entries.field("source"), value_set=pa.array(pooling.sources)).to_numpy(zero_copy_only=False)
        ages = day[rows].astype(np.int64) - pooling.lag_days - ds
        return cls(rows=rows, sources=names.astype(np.int64), ages=ages, values=_padded(codes))


def _padded(lists: pa.ListArray) -> NDArray[Any]:
    """(n, longest list), -1 after the end of a shorter one."""
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    padded = np.full((len(lengths), lengths.max(initial=1)), -1, values.dtype)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = values
    return padded


def mean_matrix(slices: Slices, num_rows: int, pooling: Pooling) -> sparse.csr_matrix:
    """(B * S, n): row b * S + s takes the weighted mean of that label's slices of that source; empty where it has none."""
    place = slices.rows * len(pooling.sources) + slices.sources
    weights = np.exp2(-slices.ages / pooling.half_life)
    total = np.bincount(place, weights=weights, minlength=num_rows * len(pooling.sources))
    shape = (num_rows * len(pooling.sources), len(place))
    return sparse.csr_matrix((weights / total[place], (place, np.arange(len(place)))), shape=shape)


def activity(slices: Slices, num_rows: int, pooling: Pooling) -> Floats:
    """(B, 2 S): per source the days with a slice, then the days since the last one (the window where there is none)."""
    shape = (num_rows, len(pooling.sources))
    days, since = np.zeros(shape, np.float32), np.full(shape, pooling.window_days, np.float32)
    np.add.at(days, (slices.rows, slices.sources), 1)
    np.minimum.at(since, (slices.rows, slices.sources), slices.ages.astype(np.float32))
    return np.concatenate([days, since], axis=1)


def pooled_vectors(slices: Slices, num_rows: int, pooling: Pooling) -> Floats:
    """(B, S * D), zeros for a source without slices."""
    width = slices.values.shape[1] if len(slices.values) else 0
    pooled = mean_matrix(slices, num_rows, pooling) @ slices.values.astype(np.float32)
    return np.asarray(pooled, np.float32).reshape(num_rows, len(pooling.sources) * width)


def pooled_tokens(slices: Slices, num_rows: int, sizes: NDArray[np.int64], pooling: Pooling) -> sparse.csr_matrix:
    """(B, V): how much of a source's weight each token has; the shares of a level sum to 1. `sizes` (S, L) codes a level."""
    first = np.cumsum(sizes).reshape(sizes.shape) - sizes
    levels = slices.values.shape[1]
    columns = first[slices.sources, :levels] + slices.values
    given = slices.values >= 0
    starts = np.concatenate([[0], np.cumsum(given.sum(axis=1))])
    one_hot = sparse.csr_matrix((np.ones(given.sum()), columns[given], starts), shape=(len(columns), int(sizes.sum())))
    sources = len(pooling.sources)
    over_sources = sparse.csr_matrix((np.ones(num_rows * sources), np.arange(num_rows * sources), np.arange(num_rows + 1) * sources))
    return (over_sources @ (mean_matrix(slices, num_rows, pooling) @ one_hot)).tocsr()


def decoded(slices: Slices, tokenizer: Tokenizer) -> Slices:
    """The same slices with the vectors that their codes stand for. Codes of a sequence repeat, so each is decoded once."""
    keys = np.concatenate([slices.sources[:, None], slices.values], axis=1).astype(np.int64)
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    codes = np.full((len(distinct), len(tokenizer.layout.sources), tokenizer.vocabulary.num_levels), -1, np.int16)
    codes[np.arange(len(distinct)), distinct[:, 0], : slices.values.shape[1]] = distinct[:, 1:]
    vectors = tokenizer.decode(codes)[np.arange(len(distinct)), distinct[:, 0]]
    return Slices(rows=slices.rows, sources=slices.sources, ages=slices.ages, values=vectors[inverse.ravel()])


def pool_tokens(frozen: FrozenTokenizer, pooling: Pooling) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """For `mapInArrow` over label rows with their codes: POOLED_TOKENS, where `vectors` are decoded codes."""

    def pool(batches: Batches) -> Iterator[pa.RecordBatch]:
        tokenizer = frozen.load()
        for batch in batches:
            slices = Slices.of(batch, pooling)
            tokens = pooled_tokens(slices, batch.num_rows, tokenizer.vocabulary.sizes, pooling)
            vectors = pooled_vectors(decoded(slices, tokenizer), batch.num_rows, pooling)
            starts = pa.array(tokens.indptr.astype(np.int32))
            sparse_columns = [pa.ListArray.from_arrays(starts, pa.array(part)) for part in (tokens.indices.astype(np.int32), tokens.data.astype(np.float32))]
            columns = [*map(batch.column, KEPT), _lists(vectors), _lists(activity(slices, batch.num_rows, pooling)), *sparse_columns]
            yield pa.RecordBatch.from_arrays(columns, names=[*KEPT, "vectors", "activity", "positions", "weights"])

    return pool


def pool_vectors(pooling: Pooling) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """For `mapInArrow` over label rows with their float vectors: POOLED."""

    def pool(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            slices = Slices.of(batch, pooling)
            vectors = _lists(pooled_vectors(slices, batch.num_rows, pooling))
            columns = [*map(batch.column, KEPT), vectors, _lists(activity(slices, batch.num_rows, pooling))]
            yield pa.RecordBatch.from_arrays(columns, names=[*KEPT, "vectors", "activity"])

    return pool


def _lists(values: Floats) -> pa.ListArray:
    starts = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(values.ravel()))


def vectors_udf(frozen: FrozenTokenizer) -> Callable[..., Column]:
    """An iterator pandas UDF over `tokenizer.columns()` as one struct: `<source>_codes`, the slice before quantization.

    A float array of length D, NULL where the slice has no codes. Named like the codes, so that the same join takes them.
    """
    fields = ", ".join(f"{source}_codes array<float>" for source in frozen.sources)

    @F.pandas_udf(fields)  # type: ignore[attr-defined, call-overload, untyped-decorator]
    def vectors(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        tokenizer = frozen.load()
        for frame in frames:
            columns = {name: frame[name].to_numpy() for name in frame.columns}
            yield vector_columns(FeatureBatch.from_columns(columns, tokenizer.layout), tokenizer)

    return vectors  # type: ignore[no-any-return]


def vector_columns(batch: FeatureBatch, tokenizer: Tokenizer) -> pd.DataFrame:
    """One column per source."""
    projected, columns = tokenizer.project(batch), {}
    for position, source in enumerate(tokenizer.layout.source_names):
        present = batch.slices[source].present & (source not in tokenizer.untrained_sources)
        columns[f"{source}_codes"] = pd.Series(list(projected[:, position]), dtype=object).where(present, None)
    return pd.DataFrame(columns)
