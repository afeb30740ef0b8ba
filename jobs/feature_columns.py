"""Transforms from clean rows to slices: one event as text, hashed ids and values, then one slice per user, day, source.

Pure: DataFrames and a catalog in, DataFrames out. All sources go through one union and one grouping, so a day costs two
shuffles of its events however many sources there are. A slice's lists are bounded; counts are not.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from schemas.catalog import Catalog, Source

SLICE = ("user_id", "ds", "source")
TEXT_EVENTS = 2000  # a slice's text is made from at most this many of its latest events; far more than its length holds
SEPARATOR = "; "


def latest_versions(rows: DataFrame, source: Source) -> DataFrame:
    """One row per dedup key and day: the latest available; then the latest delivery; then a stable choice by content."""
    order = [F.col("available_time").desc(), F.col("delivered_ds").desc(), F.col("delivery_id").desc(), content_hash(source).desc()]
    window = Window.partitionBy("ds", *(key for key in source.dedup_key)).orderBy(*order)
    return rows.withColumn("__rank", F.row_number().over(window)).where(F.col("__rank") == 1).drop("__rank")


def content_hash(source: Source) -> Column:
    """Stable order among rows that nothing else tells apart."""
    return F.xxhash64("user_id", "event_time", *(p for c in source.columns for p in (F.col(c.name), F.col(c.name).isNull())))


def events(rows: DataFrame, source: Source, catalog: Catalog) -> DataFrame:
    """Columns: user_id, ds, source, event_time, tie BIGINT, text, ids ARRAY<INT>, values ARRAY<FLOAT> (without the gap)."""
    return rows.select(
        "user_id",
        "ds",
        F.lit(source.name).alias("source"),
        "event_time",
        content_hash(source).alias("tie"),
        event_text(source).alias("text"),
        F.array(*(hashed(source, c.name, catalog.header.hash_buckets) for c in source.id_columns)).alias("ids"),
        F.array(*numeric_values(source), time_of_day("event_time", catalog.time_zone)).alias("values"),
        F.lit(source.max_events).alias("max_events"),
    )


def event_text(source: Source) -> Column:
    """The declaration's template filled from one row; a null field is '?'."""
    parts: list[Column] = []
    for literal, name, spec in source.template_fields:
        parts.append(F.lit(literal))
        if name:
            value = F.col(name)
            shown = magnitude(value) if spec == "log2" else value.cast("string")
            parts.append(F.coalesce(shown, F.lit("?")))
    return F.concat(*parts)


def magnitude(value: Column) -> Column:
    """Order of magnitude as a word, e9 for 511 to 1022: text models read raw numbers badly. The sign is kept."""
    exponent = F.floor(F.log2(F.abs(value.cast("double")) + 1)).cast("string")
    return F.concat(F.when(value < 0, "-e").otherwise("e"), exponent)


def hashed(source: Source, name: str, buckets: int) -> Column:
    """1 to buckets - 1 by xxhash64 of (source, column, value); 0 where the value is null."""
    bucket = F.pmod(F.xxhash64(F.lit(source.name), F.lit(name), F.col(name).cast("string")), F.lit(buckets - 1)) + 1
    return F.when(F.col(name).isNull(), F.lit(0)).otherwise(bucket).cast("int")


def numeric_values(source: Source) -> list[Column]:
    """Numeric columns in declared order; a nullable one is followed by its presence (null: 0 and 0)."""
    values = []
    for column in source.with_role("numeric"):
        value = F.col(column.name)
        values.append(F.coalesce(value, F.lit(0)).cast("float"))
        if column.nullable:
            values.append(value.isNotNull().cast("float"))
    return values


def time_of_day(moment: str, time_zone: str) -> Column:
    """Share of the local day that has passed, 0 to 1."""
    local = F.from_utc_timestamp(moment, time_zone)
    return ((F.hour(local) * 3600 + F.minute(local) * 60 + F.second(local)) / 86400).cast("float")


def slices(all_events: DataFrame) -> DataFrame:
    """One row per slice: count, texts (most frequent first, with counts), the latest events in order of time."""
    latest = Window.partitionBy(*SLICE).orderBy(F.col("event_time").desc(), F.col("tie").desc())
    oldest = Window.partitionBy(*SLICE).orderBy("event_time", "tie")
    same_text = Window.partitionBy(*SLICE, "text")
    ranked = all_events.select(
        "*",
        F.row_number().over(latest).alias("recency"),
        F.lag("event_time").over(oldest).alias("previous"),
        F.count(F.lit(1)).over(same_text).alias("times"),
        F.row_number().over(same_text.orderBy(F.col("event_time").desc(), F.col("tie").desc())).alias("of_text"),
    )
    gap = F.log1p(F.unix_timestamp("event_time") - F.unix_timestamp(F.coalesce("previous", "event_time"))).cast("float")
    event = F.struct("event_time", "tie", "ids", F.concat("values", F.array(gap)).alias("values"))
    text = F.struct((-F.col("times")).alias("order"), "text")
    shown = (F.col("of_text") == 1) & (F.col("recency") <= TEXT_EVENTS)
    return ranked.groupBy(*SLICE).agg(
        F.count(F.lit(1)).cast("int").alias("count"),
        F.array_sort(F.collect_list(F.when(shown, text))).alias("texts"),
        F.array_sort(F.collect_list(F.when(F.col("recency") <= F.col("max_events"), event))).alias("events"),
    )


def slice_text(texts: Column, max_chars: int) -> Column:
    """'text xN; text ...' cut to `max_chars` characters, as UTF-8 bytes."""
    line = F.transform(texts, lambda t: F.concat(t["text"], F.when(t["order"] < -1, F.concat(F.lit(" x"), -t["order"])).otherwise("")))
    joined = F.substring(F.array_join(line, SEPARATOR), 1, max_chars)
    return F.encode(F.when((joined == "") & (F.size(texts) > 0), F.lit("?")).otherwise(joined), "UTF-8")  # empty is what a slice without events has


def padded(values: Column, length: int, zero: Column) -> Column:
    return F.concat(values, F.array_repeat(zero, F.lit(length) - F.size(values)))
