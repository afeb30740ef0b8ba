"""compare_tokenizers: two tokenizers on the same feature rows, measured on the executors.

Reads user_features (one pinned version, a sample by row_hash); writes nothing. The driver sees a few rows per source and
level, never a user. Deterministic: the same table version and tokenizers give the same figures.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.delta_tables import Where, on_days
from jobs.encoding import FrozenTokenizer
from jobs.errors import BadInput
from jobs.registered_tokenizers import Registered, find_registered, load_registered, ship
from schemas.keys import Days
from u2qt_model import FeatureBatch, Tokenizer

SHARES = 1 << 20  # the sample is a share of rows in steps of one part in so many
SIDES = ("a", "b")
PER_SIDE = "code_{0} int, margin_{0} float, error_{0} double, length_{0} double"
SLICES = f"source string, level int, {', '.join(PER_SIDE.format(side) for side in SIDES)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was compared, and the figures per source and level."""

    a: Registered
    b: Registered
    days: Days
    table_version: int
    rows: int  # of user_features on these days; about `sampled` of them were compared
    sampled: int
    levels: tuple[Row, ...]  # as `compared` gives them, sources in catalog order

    @property
    def held_out(self) -> bool:
        """Whether both were trained on earlier days only."""
        return max(self.a.trained_through, self.b.trained_through) < self.days.first


def sampled(features: DataFrame, rows: int, wanted: int) -> DataFrame:
    """About `wanted` of `rows` rows: those with a small hash, whatever their partitioning."""
    share = min(SHARES, -(-wanted * SHARES // max(rows, 1)))
    return features.where(F.pmod(F.xxhash64("row_hash"), F.lit(SHARES)) < share)


def compared(slices: DataFrame) -> DataFrame:
    """Per source and level: slices, use, margins and error under each, and the agreement of both.

    `agreement` is the normalised mutual information of the two codes: 0 is independent, 1 the same clusters under any
    numbering, NULL where both have one code only. `equal` is the share of equal numbers. Errors are of the source.
    """
    key = ["source", "level"]
    both = slices.where(F.col("code_a").isNotNull() & F.col("code_b").isNotNull())
    joint = both.groupBy(*key).agg(F.count("*").alias("slices_ab"), F.avg((F.col("code_a") == F.col("code_b")).cast("int")).alias("equal"))
    parts = [_entropy(both, key, "code_a", "both_a"), _entropy(both, key, "code_b", "both_b"), _entropy(both, key, "code_a", "both_ab", "code_b")]
    for part in (*(_use(slices, key, side) for side in SIDES), *parts):
        joint = part.join(joint, on=key, how="full")
    mutual = F.col("both_a") + F.col("both_b") - F.col("both_ab")
    agreement = F.when(F.col("both_a") + F.col("both_b") > 0, F.greatest(F.lit(0.0), 2 * mutual / (F.col("both_a") + F.col("both_b"))))
    figures = [f"{name}_{side}" for side in SIDES for name in ("slices", "used", "perplexity", "margin_p01", "margin_p50")]
    errors = slices.groupBy("source").agg(*((F.sum(f"error_{side}") / F.nullif(F.sum(f"length_{side}"), F.lit(0.0))).alias(f"error_{side}") for side in SIDES))
    measured = joint.withColumn("agreement", agreement).join(errors, on="source", how="left")
    return measured.select(*key, *figures, "error_a", "error_b", "slices_ab", "equal", "agreement")


def _use(slices: DataFrame, key: list[str], side: str) -> DataFrame:
    """Slices, codes used, perplexity and margins under one tokenizer."""
    code = f"code_{side}"
    present = slices.where(F.col(code).isNotNull())
    low, middle = (F.percentile_approx(f"margin_{side}", share, 10_000) for share in (0.01, 0.5))
    margins = present.groupBy(*key).agg(
        F.count("*").alias(f"slices_{side}"), F.countDistinct(code).alias(f"used_{side}"), low.alias(f"margin_p01_{side}"), middle.alias(f"margin_p50_{side}")
    )
    entropy = _entropy(present, key, code, "entropy")
    return margins.join(entropy, on=key, how="inner").withColumn(f"perplexity_{side}", F.exp("entropy")).drop("entropy")


def _entropy(slices: DataFrame, key: list[str], code: str, name: str, *more: str) -> DataFrame:
    """Entropy in nats of the codes of each source and level."""
    n: Column = F.col("n")
    counted = slices.groupBy(*key, code, *more).agg(F.count("*").alias("n"))
    return counted.groupBy(*key).agg((F.log(F.sum(n)) - F.sum(n * F.log(n)) / F.sum(n)).alias(name))


def run(context: Context, days: Days, a: str, b: str, rows: int = 20_000) -> Comparison:
    """Measures versions `a` and `b` on about `rows` rows of `days`. Raises `BadInput` where there are none."""
    if rows < 1:
        raise BadInput(f"--rows {rows}: expected at least 1")
    found = (find_registered(context, a), find_registered(context, b))
    loaded = [load_registered(registered, context.catalog) for registered in found]
    frozen = [ship(context, registered, tokenizer.layout.source_names) for registered, tokenizer in zip(found, loaded, strict=True)]
    version = context.lake.version("user_features")
    total = sum(file.rows for file in context.lake.active_files("user_features", version, Where(days=days)))
    if not total:
        raise BadInput(f"user_features, {days}: no rows to compare on; run `u2qt validate` and `u2qt build` for these days first")
    columns = dict.fromkeys(name for tokenizer in loaded for name in tokenizer.columns())
    features = sampled(on_days(context.lake.read("user_features", version), days), total, rows).select("row_hash", *columns)
    features = features.repartition(context.spark.sparkContext.defaultParallelism).cache()
    slices = features.mapInPandas(measure(frozen[0], frozen[1]), SLICES).cache()
    try:
        figures = compared(slices).collect()
        order = {name: place for place, name in enumerate(loaded[0].layout.source_names)}
        levels = tuple(sorted(figures, key=lambda row: (order[row.source], row.level)))
        return Comparison(a=found[0], b=found[1], days=days, table_version=version, rows=total, sampled=features.count(), levels=levels)
    finally:
        slices.unpersist()
        features.unpersist()


def measure(a: FrozenTokenizer, b: FrozenTokenizer) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """For `mapInPandas` over feature rows: one row per slice and level, without any id. Errors stand on level 1 only."""

    def slices(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        tokenizers = dict(zip(SIDES, (a.load(), b.load()), strict=True))
        for frame in frames:
            columns = {name: frame[name].to_numpy() for name in frame.columns}
            batch = FeatureBatch.from_columns(columns, tokenizers["a"].layout)
            yield side_by_side({side: batch_measures(batch, tokenizer) for side, tokenizer in tokenizers.items()}, tokenizers["a"].layout.source_names)

    return slices


def batch_measures(batch: FeatureBatch, tokenizer: Tokenizer) -> dict[str, NDArray[np.float64]]:
    """code, margin (B, S, L); error, length (B, S, L): squared, on the first level only. NaN where a source is absent."""
    codes, margins = tokenizer.encode_with_margins(batch)
    projected = tokenizer.project(batch).astype(np.float64)
    present = codes >= 0
    first = present & (np.arange(codes.shape[2]) == 0)
    error = np.square(projected - tokenizer.decode(codes)).sum(axis=2, keepdims=True)
    length = np.square(projected).sum(axis=2, keepdims=True)
    return {
        "code": np.where(present, codes, np.nan),
        "margin": np.where(present, margins, np.nan),
        "error": np.where(first, error, np.nan),
        "length": np.where(first, length, np.nan),
    }


def side_by_side(measures: dict[str, dict[str, NDArray[np.float64]]], sources: tuple[str, ...]) -> pd.DataFrame:
    """Rows of SLICES; a tokenizer with fewer levels has none on the deeper ones, a slice that neither has no row."""
    users, _, _ = measures["a"]["code"].shape
    levels = max(side["code"].shape[2] for side in measures.values())
    columns: dict[str, object] = {
        "source": np.tile(np.repeat(np.array(sources, object), levels), users),
        "level": np.tile(np.arange(1, levels + 1), users * len(sources)),
    }
    for side, found in measures.items():
        for name, values in found.items():
            wide = np.pad(values, ((0, 0), (0, 0), (0, levels - values.shape[2])), constant_values=np.nan).reshape(-1)
            columns[f"{name}_{side}"] = pd.Series(wide).astype("Int32" if name == "code" else "float64")
    frame = pd.DataFrame(columns)
    return frame[frame["code_a"].notna() | frame["code_b"].notna()]
