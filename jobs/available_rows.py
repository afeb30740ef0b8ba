"""What a day's features may know: the cutoff, and the sums of the clean rows available by then.

Pure but for reading the clean rows: nothing is written. Cost: one pass over narrow columns of the days' events, and the
days times the profile rows inside its lookback.
"""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from zoneinfo import ZoneInfo

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.day_states import NOTHING, Published, built_when_published, definition_hash, ledger_days, runs_of_days, sum_text, summed
from jobs.delta_tables import Where, on_days
from jobs.validation_rules import end_of_day
from schemas.catalog import Catalog, Source
from schemas.keys import FIRST_DAY, LAST_DAY, Days
from schemas.source_events import source_table_name

REWRITTEN = "rewritten"  # in the ledger's detail: days whose changed rows are known from their publish on, whatever their cutoff
EVER = Days(FIRST_DAY, LAST_DAY)
FEATURES = 1  # counts changes of the meaning of feature_columns and build_user_features


def cutoff(catalog: Catalog, given: datetime | None) -> Column:
    """The moment up to which a row of `ds` may know: `given`, or the end of ds plus the delivery lag."""
    if given is not None:
        return F.lit(given.isoformat()).cast("timestamp")
    lag = F.make_interval(secs=F.lit(int(catalog.delivery_lag.total_seconds())))
    return end_of_day(F.col("ds"), catalog.time_zone) + lag


def default_cutoff(catalog: Catalog, ds: date) -> datetime:
    """The end of `ds` plus the delivery lag, as `cutoff` has it in Spark."""
    end = datetime.combine(ds + timedelta(days=1), time(0), ZoneInfo(catalog.time_zone))
    return end.astimezone(UTC) + catalog.delivery_lag


def features_definition(catalog: Catalog) -> str:
    return definition_hash(FEATURES, catalog.feature_layout(), catalog.time_zone, catalog.header.delivery_lag, [s.dedup_key for s in catalog.sources])


def passed_rows(context: Context, source: Source, versions: Mapping[str, int]) -> DataFrame:
    """The clean rows of `source`, less those of days of delivery that a gate blocked or whose validation did not end."""
    deliveries = context.lake.read("deliveries", versions.get("deliveries")).where(F.col("source") == F.lit(source.name))
    passed = deliveries.groupBy("delivered_ds").agg(F.every(F.col("gate") == "passed").alias("passed")).where("passed").select("delivered_ds")
    table = source_table_name(source.name)
    return context.lake.read(table, versions.get(table)).join(F.broadcast(passed), on="delivered_ds", how="left_semi")


def available_sums(context: Context, days: Days, known: Column, versions: Mapping[str, int]) -> DataFrame:
    """source, ds, rows, hashes: the clean rows that each of `days` may know. A profile row counts for every day it is valid for."""
    return summed(_rows(context, days, versions).where(F.col("available_time") <= known), "source", "ds")


def _rows(context: Context, days: Days, versions: Mapping[str, int]) -> DataFrame:
    """source, ds, delivered_ds, available_time, row_hash of the clean rows of `days`; a profile row for every day that it is valid for."""
    frames = []
    for source in context.catalog.sources:
        rows = passed_rows(context, source, versions).select("ds", "delivered_ds", "available_time", "row_hash")
        rows = on_days(rows, days) if source.kind == "events" else _valid_on(rows, days, source, context)
        frames.append(rows.select(F.lit(source.name).alias("source"), "ds", "delivered_ds", "available_time", "row_hash"))
    return reduce(DataFrame.unionAll, frames)


def rewritten(context: Context, days: Days, given: datetime | None, versions: Mapping[str, int]) -> set[date]:
    """The published days of which more than late rows has changed since: a delivery that came again, a replay, a template.

    A cutoff speaks for rows that came late, those up to `given` here; of the others nobody knew before the repair. A day that is published and
    whose publish the ledger doesn't know (its process died) counts as one, as nobody can say what has changed.
    """
    known = built_when_published(context, days)
    published = {date.fromisoformat(f.partition["ds"]) for f in context.lake.active_files("user_tokens", context.lake.version("user_tokens"), Where(days=days))}
    definition = features_definition(context.catalog)
    found = (published - {*known}) | {ds for ds, was in known.items() if was.state.definition != definition}
    for moment in dict.fromkeys(was.state.cutoff for was in known.values()):
        for part in runs_of_days(ds for ds, was in known.items() if was.state.cutoff == moment and ds not in found):
            before = cutoff(context.catalog, moment)
            sums = {(row["ds"], row["source"]): sum_text(row) for row in available_sums(context, part, before, versions).collect()}
            found |= {ds for ds in part for source, rows in known[ds].state.inputs.items() if sums.get((ds, source), NOTHING) != rows}
            if given is not None:
                late = _rows(context, part, versions).where((F.col("available_time") > before) & (F.col("available_time") <= cutoff(context.catalog, given)))
                found |= _replayed(context, late, known)
    return found


def _replayed(context: Context, late: DataFrame, known: Mapping[date, Published]) -> set[date]:
    """The days with rows in `late` of a delivery whose replay ended since what is published was built: a row's own time doesn't say when it was let in.

    The ledger is asked first: without such a replay since the oldest of the builds, `late` is not read.
    """
    ended = F.timestamp_micros(F.unix_micros("started_at") + (F.col("seconds") * 1_000_000).cast("bigint"))
    replays = ledger_days(context, "replay_quarantine", EVER, ("done", "refused")).groupBy("ds").agg(F.max(ended).alias("last"))
    since = min(was.built_at for was in known.values())
    last = {row.ds: row.last.astimezone(UTC) for row in replays.where(F.col("last") > F.lit(since)).collect()}
    if not last:
        return set()
    pairs = late.where(F.col("delivered_ds").isin([*last])).select("ds", "delivered_ds").distinct().collect()  # days
    return {ds for ds, delivered_ds in pairs if last[delivered_ds] > known[ds].built_at}


def known_from_publish(context: Context, days: Days) -> set[date]:
    """The days that the last build of each found rewritten: it noted them under `REWRITTEN`."""
    builds = ledger_days(context, "build_user_features", days, ("done",)).groupBy("ds").agg(F.max_by("detail", "started_at").alias("detail"))
    return {row.ds for row in builds.collect() if str(row.ds) in json.loads(row.detail or "{}").get(REWRITTEN, [])}


def _valid_on(rows: DataFrame, days: Days, profile: Source, context: Context) -> DataFrame:
    chosen = F.broadcast(context.spark.createDataFrame([(ds,) for ds in days], "on DATE"))
    valid = F.col("ds") <= F.col("on")
    if profile.lookback_days is not None:
        rows = rows.where(F.col("ds") > F.date_sub(F.lit(days.first), profile.lookback_days))
        valid &= F.col("ds") > F.date_sub("on", profile.lookback_days)
    joined = rows.where(F.col("ds") <= F.lit(days.last)).join(chosen, on=valid, how="inner")
    return joined.select(F.col("on").alias("ds"), "delivered_ds", "available_time", "row_hash")
