"""The compared features of sampled labels, as arrays: tokens, decoded codes, floats before quantization, counts and sums.

Everything per user and day is made on executors and joined there by `point_in_time.join_tokens`; the driver receives one
pooled row per sampled label. Each join's newest row is checked once more here, by other arithmetic than the join's.
N labels, S sources, D code dimension, V tokens, a shared one counted once for each source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy import sparse

from jobs.context import Context
from jobs.encoding import FrozenTokenizer
from jobs.errors import GateRefused
from jobs.evaluation_counts import counts_and_sums
from jobs.evaluation_labels import Sample
from jobs.evaluation_pooling import POOLED, POOLED_TOKENS, Pooling, pool_tokens, pool_vectors, vectors_udf
from jobs.point_in_time import day_of, join_tokens
from schemas.source_events import source_table_name
from u2qt_model import Tokenizer

Floats = NDArray[np.float32]
LABELS_PER_TASK = 500  # bounds an executor's batch: a label's window of float vectors is about 50 kB
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One tokenizer version, loaded here and shipped to the executors."""

    name: str
    tokenizer: Tokenizer
    frozen: FrozenTokenizer

    @property
    def sources(self) -> int:
        """S."""
        return len(self.frozen.sources)

    @property
    def vector_width(self) -> int:
        """S * D."""
        return self.sources * self.tokenizer.config.encoder.code_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """What a label may see."""

    time_zone: str
    window_days: int  # N
    lag_days: int

    @property
    def lag(self) -> timedelta:
        return timedelta(days=self.lag_days)

    def pooling(self, version: Version) -> Pooling:
        return Pooling(sources=version.frozen.sources, window_days=self.window_days, lag_days=self.lag_days)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFeatures:
    """What one version says of N labels; rows without tokens say nothing."""

    has_tokens: NDArray[np.bool_]  # (N,)
    tokens: sparse.csr_matrix  # (N, V + 2 S)
    decoded: Floats  # (N, S * D + 2 S)


def token_features(sample: Sample, labels: DataFrame, tokens: DataFrame, superseded: DataFrame, version: Version, cut: Cut) -> TokenFeatures:
    joined = _sequences(labels, tokens, superseded, version, cut)
    rows = _pooled(joined, sample, pool_tokens(version.frozen, cut.pooling(version)), POOLED_TOKENS)
    refuse_future_rows(rows, sample, cut, f"tokens of {version.name}")
    number, lengths = len(sample.users), np.zeros(len(sample.users), np.int64)
    lengths[rows["label_id"]] = rows["positions"].map(len)
    parts = (_end_to_end(rows["weights"], np.float64), _end_to_end(rows["positions"], np.int64), np.concatenate([[0], np.cumsum(lengths)]))
    matrix = sparse.csr_matrix(parts, shape=(number, int(version.tokenizer.vocabulary.sizes.sum())))
    active = _dense(rows, "activity", number, 2 * version.sources)
    return TokenFeatures(
        has_tokens=np.isin(np.arange(number), rows["label_id"]),
        tokens=sparse.hstack([matrix, sparse.csr_matrix(active / cut.window_days)]).tocsr(),  # all in [0, 1]
        decoded=np.concatenate([_dense(rows, "vectors", number, version.vector_width), active], axis=1),
    )


def float_features(sample: Sample, labels: DataFrame, features: DataFrame, version: Version, cut: Cut) -> Floats:
    """(N, S * D + 2 S) from `features`, user_features as it is now: rows that a repair replaced are gone, so a label
    between a day and its repair has that day's tokens and not its floats."""
    first, last = days_seen(sample, cut)
    mine = labels.select(F.encode("user_id", "UTF-8").alias("user_id")).distinct()
    rows = features.where(F.col("ds").between(F.lit(first), F.lit(last))).join(F.broadcast(mine), on="user_id", how="left_semi")
    vectors = vectors_udf(version.frozen)(F.struct(*version.tokenizer.columns())).alias("v")
    keyed = rows.select(F.decode("user_id", "UTF-8").alias("user_id"), "ds", "available_at", F.lit(version.name).alias("tokenizer_version"), vectors)
    embedded = keyed.select("user_id", "ds", "available_at", "tokenizer_version", "v.*")
    none = labels.sparkSession.createDataFrame([], embedded.schema).withColumn("superseded_by_run", F.lit(""))
    pooled = _pooled(_sequences(labels, embedded, none, version, cut), sample, pool_vectors(cut.pooling(version)), POOLED)
    refuse_future_rows(pooled, sample, cut, f"floats of {version.name}")
    number = len(sample.users)
    return np.concatenate([_dense(pooled, "vectors", number, version.vector_width), _dense(pooled, "activity", number, 2 * version.sources)], axis=1)


def count_features(context: Context, sample: Sample, labels: DataFrame, versions: Mapping[str, int], cut: Cut) -> Floats:
    """(N, F), signed logarithms of counts and sums, as these have long tails; `versions` pins the source tables."""
    first, last = days_seen(sample, cut)
    tables = {}
    for source in context.catalog.sources:
        table = source_table_name(source.name)
        rows = context.lake.read(table, versions[table]).where(F.col("ds") <= F.lit(last))
        tables[source.name] = rows.where(F.col("ds") >= F.lit(first)) if source.kind == "events" else rows
    dated = labels.select("label_id", "user_id", F.col("at").alias("moment"), day_of(F.col("at"), cut.time_zone).alias("day"))
    counted = counts_and_sums(dated, tables, context.catalog, window_days=cut.window_days, lag_days=cut.lag_days)
    pooled: pd.DataFrame = counted.withColumn("newest_available", F.unix_micros("newest_available")).toPandas().sort_values("label_id")
    refuse_future_rows(pooled[pooled["newest_day"].notna()], sample, cut, "counts and sums")
    values = pooled.drop(columns=["label_id", "newest_day", "newest_available"]).to_numpy(np.float32)
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)), np.float32)


def refuse_future_rows(rows: pd.DataFrame, sample: Sample, cut: Cut, what: str) -> None:
    """Raises `GateRefused` when a label (label_id) saw a day (newest_day) or a row (newest_available, microseconds) that it may not."""
    moments = sample.moments[rows["label_id"].to_numpy()]
    local = pd.to_datetime(moments, unit="us", utc=True).tz_convert(ZoneInfo(cut.time_zone)).tz_localize(None)
    youngest = (local.normalize() - cut.lag).to_numpy()
    late = (pd.to_datetime(rows["newest_day"]).to_numpy() > youngest) | (rows["newest_available"].to_numpy() > moments)
    if late.any():
        at = int(np.argmax(late))
        seen, allowed = EPOCH + timedelta(microseconds=int(rows["newest_available"].iloc[at])), pd.Timestamp(youngest[at]).date()
        raise GateRefused(
            f"evaluate, {what}: the label of {EPOCH + timedelta(microseconds=int(moments[at]))} saw day {rows['newest_day'].iloc[at]}, available {seen}, "
            f"expected days up to {allowed}, available by the label; the future leaks into the features: no figure was computed; report it as a bug"
        )


def days_seen(sample: Sample, cut: Cut) -> tuple[date, date]:
    """First and last day that any label may see."""
    zone = ZoneInfo(cut.time_zone)
    oldest, newest = ((EPOCH + timedelta(microseconds=int(m))).astimezone(zone).date() for m in (sample.moments.min(), sample.moments.max()))
    return oldest - timedelta(days=cut.lag_days + cut.window_days - 1), newest - cut.lag


def _sequences(labels: DataFrame, tokens: DataFrame, superseded: DataFrame, version: Version, cut: Cut) -> DataFrame:
    return join_tokens(
        labels, tokens, superseded, tokenizer_version=version.name, at="at", time_zone=cut.time_zone, lag=cut.lag, sequence_days=cut.window_days
    ).withColumn("day", day_of(F.col("at"), cut.time_zone))


def _pooled(joined: DataFrame, sample: Sample, pool: Any, schema: str) -> pd.DataFrame:
    """By label_id, the labels that have a sequence: newest_day, newest_available (microseconds) and what `pool` makes."""
    known = joined.where(F.col("token_ds").isNotNull() & (F.size("sequence") > 0))
    available = F.unix_micros("token_available_at").alias("newest_available")
    rows = known.select("label_id", "day", "sequence", F.col("token_ds").alias("newest_day"), available)
    tasks = -(-len(sample.users) // LABELS_PER_TASK)
    return rows.repartition(tasks, "label_id").mapInArrow(pool, schema).toPandas().sort_values("label_id", ignore_index=True)


def _dense(rows: pd.DataFrame, column: str, number: int, width: int) -> Floats:
    """(number, width), zeros for labels without a row."""
    values = np.zeros((number, width), np.float32)
    if len(rows):
        values[rows["label_id"]] = np.stack(rows[column].to_list())
    return values


def _end_to_end(lists: "pd.Series[Any]", dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(part, dtype) for part in lists)])
