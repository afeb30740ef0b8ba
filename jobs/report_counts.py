"""The report's counting: small aggregates of big tables. Knows no session, path or clock."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from jobs.ledger_rows import days_worked
from schemas.catalog import Catalog
from schemas.user_tokens import codes_column

HISTOGRAM_BINS = 12  # the last one holds this many events and more
TOP_REASONS = 5
SAMPLES = 6
LAST_STAGES = 40


def delivery_totals(deliveries: DataFrame) -> DataFrame:
    """One row per source; blocked, or running, when any of its deliveries is."""
    outcomes = [F.sum(F.coalesce(name, F.lit(0))).alias(name) for name in ("rows_in", "clean", "quarantined", "duplicates", "forgotten")]
    gates = [F.bool_or(F.col("gate") == gate).alias(gate) for gate in ("blocked", "running")]
    return deliveries.groupBy("source").agg(*outcomes, *gates)


def top_reasons(quarantined: DataFrame) -> DataFrame:
    """The `TOP_REASONS` most frequent codes per source, most frequent first; ties by code."""
    order = Window.partitionBy("source").orderBy(F.desc("rows"), "reason")
    each = quarantined.select("source", F.explode("reasons").alias("reason"))
    counted = each.groupBy("source", "reason").agg(F.count("*").alias("rows"))
    placed = counted.withColumn("place", F.row_number().over(order))
    return placed.where(F.col("place") <= TOP_REASONS).orderBy("source", "place")


def activity_counts(user_features: DataFrame, sources: tuple[str, ...]) -> DataFrame:
    """Users and events per source and histogram bin; bin 0 holds the users who did not use the source."""
    each = _per_source(user_features, {source: F.col(f"{source}_count") for source in sources}, "events")
    bins = F.least("events", F.lit(HISTOGRAM_BINS)).alias("bin")
    return each.groupBy("source", bins).agg(F.count("*").alias("users"), F.sum("events").alias("events"))


def code_multiplicities(tokens: DataFrame, codebook_sizes: dict[tuple[str, int], int], sources: tuple[str, ...]) -> DataFrame:
    """Per source and level, how many codes have how many slices: usage without loss, small whatever K is.

    `codebook_sizes` are by source and level. `inside` is false for codes that the level's codebook doesn't have.
    """
    each = _per_source(tokens, {source: F.col(codes_column(source)) for source in sources}, "codes")
    codes = each.select("source", F.posexplode("codes").alias("position", "code"))
    counted = codes.groupBy("source", (F.col("position") + 1).alias("level"), "code").agg(F.count("*").alias("slices"))
    sizes = F.create_map(*(F.lit(value) for (source, level), size in codebook_sizes.items() for value in (f"{source}/{level}", size)))
    size = F.coalesce(F.element_at(sizes, F.concat_ws("/", "source", "level")), F.lit(0))
    inside = ((F.col("code") >= 0) & (F.col("code") < size)).alias("inside")
    return counted.groupBy("source", "level", inside, "slices").agg(F.count("*").alias("codes"))


def sample_slices(user_features: DataFrame, catalog: Catalog) -> DataFrame:
    """`SAMPLES` users by smallest row hash: their counts and the lengths of their texts in characters."""
    lengths = [F.length(F.col(f"{s.name}_text").cast("string")).alias(f"{s.name}_characters") for s in catalog.events]
    counts = [f"{s.name}_count" for s in catalog.sources]
    users = user_features.select("row_hash", "user_id", *counts, *lengths)
    return users.orderBy("row_hash", "user_id").limit(SAMPLES).drop("user_id")


def last_stages(runs: DataFrame) -> DataFrame:
    """The `LAST_STAGES` newest rows of the ledger, newest first, with their start as UTC text."""
    started = F.date_format("started_at", "yyyy-MM-dd HH:mm:ss").alias("started")
    newest = runs.orderBy(F.desc("started_at"), F.desc("stage"), F.desc("run_id")).limit(LAST_STAGES)
    return newest.select("stage", "status", "seconds", "rows", "run_id", "detail", days_worked(), started)


def _per_source(rows: DataFrame, columns: dict[str, Column], name: str) -> DataFrame:
    """One row per row and source: `source` and its column as `name`."""
    pairs = (F.struct(F.lit(source).alias("source"), column.alias(name)) for source, column in columns.items())
    return rows.select(F.explode(F.array(*pairs)).alias("pair")).select("pair.*")
