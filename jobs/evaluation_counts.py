"""Counts and sums per label by plain SQL over the clean source tables: the baseline that any site can have. Pure.

A row counts when its day lies in the label's window and it was available by the label's time. Late rows that the day's
features missed count here, so the baseline knows a little more than the tokens, never less.
"""

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from jobs.feature_columns import content_hash
from schemas.catalog import Catalog, Source


def counts_and_sums(labels: DataFrame, tables: Mapping[str, DataFrame], catalog: Catalog, *, window_days: int, lag_days: int) -> DataFrame:
    """`labels` (label_id, user_id, moment, day) to label_id, newest_day, newest_available and DOUBLE features per source.

    `newest_*` say what was the last thing seen, for the leak check; NULL where nothing was.
    """
    wide = [_of_source(labels, tables[source.name], source, window_days, lag_days) for source in catalog.sources]
    joined = reduce(lambda rest, frame: rest.join(frame, on="label_id", how="left"), wide, labels.select("label_id"))
    newest = [F.greatest(*(F.col(f"{source.name}__{part}") for source in catalog.sources), F.lit(None)) for part in ("day", "available")]
    return joined.select("label_id", newest[0].alias("newest_day"), newest[1].alias("newest_available"), *_filled(joined, window_days))


def versions(rows: DataFrame, source: Source) -> DataFrame:
    """Every delivered version of an event with `replaced_at`, when a later version of the same key became available."""
    order: list[str | Column] = ["available_time", "delivered_ds", "delivery_id", content_hash(source)]
    by_key = Window.partitionBy("ds", *source.dedup_key).orderBy(*order)
    return rows.withColumn("replaced_at", F.lead("available_time").over(by_key))


def _of_source(labels: DataFrame, rows: DataFrame, source: Source, window_days: int, lag_days: int) -> DataFrame:
    newest_day = F.date_sub("day", lag_days)
    asked = F.broadcast(labels.select("label_id", "user_id", "moment", newest_day.alias("newest_day")))
    known = (F.col("available_time") <= F.col("moment")) & (F.col("ds") <= F.col("newest_day"))
    current = F.col("replaced_at").isNull() | (F.col("replaced_at") > F.col("moment"))
    seen = versions(rows, source).join(asked, on="user_id", how="inner").where(known & current)
    if source.kind == "events":
        seen = seen.where(F.col("ds") > F.date_sub("newest_day", window_days))
    features = _profile_features(source) if source.kind == "profile" else _event_features(source)
    named = [column.cast("double").alias(f"{source.name}_{name}") for name, column in features.items()]
    last = [F.max("ds").alias(f"{source.name}__day"), F.max("available_time").alias(f"{source.name}__available")]
    return seen.groupBy("label_id").agg(*named, *last)


def _event_features(source: Source) -> dict[str, Column]:
    numeric = {f"{how}_{c.name}": f(c.name) for c in source.with_role("numeric") for how, f in (("sum", F.sum), ("mean", F.avg))}
    since = F.min(F.date_diff("newest_day", "ds"))
    return {"events": F.count(F.lit(1)), "active_days": F.count_distinct("ds"), "days_since": since, **numeric}


def _profile_features(source: Source) -> dict[str, Column]:
    """The numbers of the latest profile."""
    return {f"last_{c.name}": F.max_by(c.name, F.struct("event_time", "available_time")) for c in source.with_role("numeric")}


def _filled(joined: DataFrame, window_days: int) -> list[Column]:
    """0 where there is nothing to count; the window where there is no last event."""
    names = [name for name in joined.columns if name != "label_id" and "__" not in name]
    return [F.coalesce(F.col(n), F.lit(float(window_days) if n.endswith("_days_since") else 0.0)).alias(n) for n in names]
