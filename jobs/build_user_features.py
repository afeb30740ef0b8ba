"""build_user_features: the sources of a day joined into one row per active user.

Reads source_<name> (events of the days, whatever day they were delivered on) and deliveries; writes user_features.
Key: user_id, ds. Idempotent on ds: a re-run replaces those partitions.
Only rows available at the cutoff count: by default the end of ds plus the catalog's delivery lag, or a later one that a
repair of the day was given. A day whose clean rows up to its cutoff, definition and features are as its last run left
them is skipped. Cost grows with the events of the chunk, and with its days times the profile rows inside its lookback.
"""

import time
from collections.abc import Mapping
from datetime import date, datetime
from functools import cache

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from jobs import quality, retention
from jobs.available_rows import REWRITTEN, available_sums, cutoff, default_cutoff, features_definition, passed_rows, rewritten
from jobs.changed_days import DAY_PATIENCE, changed_days, is_being_validated
from jobs.context import Context
from jobs.day_states import DayState, last_done, null_safe_hash, runs_of_days, sum_text, sums_by_day
from jobs.delta_tables import Where, on_days
from jobs.errors import BadInput, GateRefused, Infrastructure
from jobs.feature_columns import events, hashed, latest_versions, numeric_values, padded, slice_text, slices
from jobs.ledger import StageRecord, record_stage
from jobs.source_columns import require_its_columns
from jobs.work_units import write_tasks
from schemas.catalog import Catalog, Source
from schemas.keys import Days
from schemas.source_events import source_table_name
from schemas.user_features import content_columns, user_features

STAGE = "build_user_features"
ROWS_PER_FILE = 8192  # bounds a Petastorm row group in memory: about 3 kB a row
UNITS_PER_SLOT = 2
LOOK_AGAIN = 2.0  # seconds between two looks at another day's validation


def slices_by_user(slice_rows: DataFrame, catalog: Catalog) -> DataFrame:
    """One row per active user and day with the columns of every event source; an absent source is empty and zero."""
    columns = [F.first(F.when(F.col("source") == s.name, F.struct("count", "texts", "events")), ignorenulls=True).alias(s.name) for s in catalog.events]
    wide = slice_rows.groupBy("user_id", "ds").agg(*columns)
    return wide.select("user_id", "ds", *(c for s in catalog.events for c in _event_columns(s)))


def _event_columns(source: Source) -> list[Column]:
    found, length = F.col(source.name), source.max_events
    empty = F.filter(F.coalesce(found["events"], _no_events(source)), lambda e: e["ids"].isNotNull())
    ids = F.flatten(F.transform(empty, lambda e: e["ids"]))
    values = F.flatten(F.transform(empty, lambda e: e["values"]))
    return [
        F.coalesce(slice_text(found["texts"], source.max_text_chars), F.encode(F.lit(""), "UTF-8")).alias(f"{source.name}_text"),
        F.coalesce(found["count"], F.lit(0)).alias(f"{source.name}_count"),
        padded(ids, length * len(source.id_columns), F.lit(0)).alias(f"{source.name}_event_ids"),
        padded(values, length * len(source.value_names), F.lit(0).cast("float")).alias(f"{source.name}_event_values"),
        padded(F.transform(empty, lambda _: F.lit(1)), length, F.lit(0)).alias(f"{source.name}_mask"),
    ]


def _no_events(source: Source) -> Column:
    """An empty list of the events' type: one event that the caller filters out."""
    nothing = F.struct(
        F.lit(None).cast("timestamp").alias("event_time"),
        F.lit(None).cast("bigint").alias("tie"),
        F.lit(None).cast("array<int>").alias("ids"),
        F.lit(None).cast("array<float>").alias("values"),
    )
    return F.array(nothing)


def profiles_at(profile_rows: DataFrame, active: DataFrame, profile: Source, catalog: Catalog, known: Column) -> DataFrame:
    """(user_id, ds) of `active` with the latest profile row valid and available then, where there is one."""
    rows = profile_rows.select(
        F.col("user_id"),
        F.col("ds").alias("valid_from"),
        F.struct("event_time", "available_time", *_tie(profile)).alias("order"),
        F.struct(
            F.array(*numeric_values(profile)).alias("values"),
            F.array(*(hashed(profile, c.name, catalog.header.hash_buckets) for c in profile.id_columns)).alias("ids"),
        ).alias("row"),
    )
    joined = active.join(rows, on="user_id", how="inner").where(F.col("valid_from") <= F.col("ds"))
    if profile.lookback_days is not None:
        joined = joined.where(F.col("valid_from") > F.date_sub("ds", profile.lookback_days))
    valid = joined.where(F.col("order.available_time") <= known)
    return valid.groupBy("user_id", "ds").agg(F.max_by("row", "order").alias("profile_row"))


def _tie(profile: Source) -> tuple[Column, Column]:
    """A stable choice among rows that nothing else tells apart. The first hash skips nulls, so the second tells where they are."""
    names = [c.name for c in profile.columns]
    return F.xxhash64(*names).alias("tie"), null_safe_hash(names).alias("tie_of_nulls")


def with_profile(users: DataFrame, profiles: DataFrame, profile: Source) -> DataFrame:
    joined = users.join(profiles, on=["user_id", "ds"], how="left")
    row, name = F.col("profile_row"), profile.name
    no_values = F.array_repeat(F.lit(0).cast("float"), len(profile.value_names))
    no_ids = F.array_repeat(F.lit(0), len(profile.id_columns))
    return joined.select(
        *users.columns,
        row.isNotNull().cast("int").alias(f"{name}_count"),
        F.coalesce(row["values"], no_values).alias(f"{name}_values"),
        F.coalesce(row["ids"], no_ids).alias(f"{name}_ids"),
    )


def row_hash(columns: tuple[str, ...]) -> Column:
    return null_safe_hash(columns, [name for name in columns if name.endswith(("_ids", "_values", "_mask"))])


def finished(users: DataFrame, catalog: Catalog, known: Column, run_id: str) -> DataFrame:
    """The table's columns: BINARY ids, the cutoff, the hash, the run."""
    rows = users.withColumn("user_id", F.encode("user_id", "UTF-8"))
    hashed_rows = rows.withColumn("row_hash", row_hash(content_columns(catalog)))
    return hashed_rows.select("*", known.alias("available_at"), F.lit(run_id).alias("run_id")).select(*user_features(catalog).columns)


def run(context: Context, days: Days, given_cutoff: datetime | None = None, *, force: bool = False) -> None:
    """Raises `BadInput` when a source of the days is not validated or was removed, `GateRefused` when the written rows fail the suite.

    Without `given_cutoff` a day that was repaired keeps the repair's, so that running it again never undoes the repair.
    """
    with record_stage(context, STAGE, days, only_errors=True):
        require_its_columns(context)
        if not force:
            retention.require_sources(context, days)

    @cache
    def cutoffs() -> Mapping[date, datetime | None]:
        """First asked for when the days are held: a repair of theirs that was under way has ended."""
        return dict.fromkeys(days, given_cutoff) if given_cutoff else _repairs(context, days)

    def describe(part: Days) -> dict[date, DayState]:
        return {ds: state for chunk in _with_one_cutoff(part, cutoffs()) for ds, state in _described(context, chunk, cutoffs()[chunk.first]).items()}

    with changed_days(context, STAGE, days, describe, force=force) as parts:
        for part in parts:
            for chunk in _with_one_cutoff(part, cutoffs()):
                _run(context, chunk, cutoffs()[chunk.first], force=force)


def _repairs(context: Context, days: Days) -> dict[date, datetime | None]:
    """The cutoffs that repairs of the days were given, where they are later than the catalog's; else None. A repair that failed since lost nothing."""
    known = last_done(context, STAGE, days)
    given = {ds: state.cutoff for ds, state in known.items() if state.cutoff and state.cutoff > default_cutoff(context.catalog, ds)}
    return {ds: given.get(ds) for ds in days}


def _with_one_cutoff(days: Days, cutoffs: Mapping[date, datetime | None]) -> list[Days]:
    return [part for moment in dict.fromkeys(cutoffs[ds] for ds in days) for part in runs_of_days(ds for ds in days if cutoffs[ds] == moment)]


def _described(context: Context, days: Days, given: datetime | None) -> dict[date, DayState]:
    with record_stage(context, STAGE, days, only_errors=True):
        _require_validated(context, days, context.lake.version("deliveries"))
    inputs = {(row["ds"], row["source"]): row for row in available_sums(context, days, cutoff(context.catalog, given), {}).collect()}
    return states(context, days, given, inputs, None)


def states(context: Context, days: Days, given: datetime | None, inputs: Mapping[tuple[date, str], Row], written: int | None) -> dict[date, DayState]:
    """`inputs`: the rows of `available_sums` by day and source; features at the version `written`, or as they are now."""
    catalog = context.catalog
    outputs = sums_by_day(on_days(context.lake.read("user_features", written), days), days)
    return {
        ds: DayState(
            ds=ds,
            definition=features_definition(catalog),
            inputs={s.name: sum_text(inputs.get((ds, s.name))) for s in catalog.sources},
            outputs={"user_features": outputs[ds]},
            cutoff=given,
        )
        for ds in days
    }


def _run(context: Context, days: Days, given: datetime | None, *, force: bool) -> None:
    with record_stage(context, STAGE, days) as record:
        known = cutoff(context.catalog, given)
        record.read.update(_pinned(context, days, known, given or default_cutoff(context.catalog, days.last)))
        _require_validated(context, days, record.read["deliveries"])
        if not force:  # a retention that took its rows meanwhile has said so before
            retention.require_sources(context, days)
        inputs = {(row["ds"], row["source"]): row for row in available_sums(context, days, known, record.read).collect()}
        if others := rewritten(context, days, given, record.read):
            record.notes[REWRITTEN] = sorted(map(str, others))
        for source in context.catalog.events:
            record.rows[f"{source.name}.available"] = sum(row["rows"] for (_, name), row in inputs.items() if name == source.name)
        all_events = _events(context, days, known, record).persist(StorageLevel.MEMORY_AND_DISK)
        try:
            users = slices_by_user(slices(all_events), context.catalog)
            if context.catalog.profile is not None:
                users = _with_profile(context, days, users, all_events.select("user_id", "ds").distinct(), known, record)
            _write(context, days, finished(users, context.catalog, known, context.run_id), record)
            _reconcile(context, days, all_events, record)
            record.states += states(context, days, given, inputs, record.written["user_features"]).values()
        finally:
            all_events.unpersist()


def _pinned(context: Context, days: Days, known: Column, latest: datetime) -> dict[str, int]:
    """Versions of `deliveries` and of the clean rows that belong together: no validation of rows of `days` was under way when they were read.

    Another day may be validated anew; without the rows of its delivery these days would be built again with less. Waits for a living
    validation; raises `GateRefused` where it was cut short, `Infrastructure` where it takes too long or nobody can say. `latest` is the
    cutoff of the last of the days.
    """
    deadline = time.monotonic() + DAY_PATIENCE
    while True:
        version = context.lake.version("deliveries")
        unfinished = _unfinished_validation(context, days, known, latest, version)
        if unfinished is not None:
            _wait_for(context, days, *unfinished, version, deadline)
            continue
        versions = {table: context.lake.version(table) for table in (source_table_name(source.name) for source in context.catalog.sources)}
        if context.lake.version("deliveries") == version:
            return {"deliveries": version, **versions}


def _wait_for(context: Context, days: Days, ds: date, source: str, version: int, deadline: float) -> None:
    """A moment, where the validation of `ds` lives or has ended since `deliveries` had `version`."""
    what = f"source {source}, {days.first} to {days.last}: rows delivered on {ds} belong to these days, and the validation of {ds}"
    if not context.lake.is_local:
        raise Infrastructure(f"{what} runs, or was cut short; see `u2qt status --ds {ds}`, and wait for it or run `u2qt validate --ds {ds}` first")
    if is_being_validated(context.lake, ds):
        if time.monotonic() > deadline:
            raise Infrastructure(f"{what} has not ended for {DAY_PATIENCE:.0f} s; wait for it (`u2qt status --ds {ds}`), or stop it")
        time.sleep(LOOK_AGAIN)
    elif context.lake.version("deliveries") == version:  # a validation writes its end before it lets go of its day
        raise GateRefused(f"{what} did not end, expected a passed delivery; run `u2qt validate --ds {ds}` first")


def _unfinished_validation(context: Context, days: Days, known: Column, latest: datetime, version: int) -> tuple[date, str] | None:
    """The first other day of delivery that is being validated anew and has rows of `days` in the tables, with one such source."""
    running = context.lake.read("deliveries", version).where(F.col("gate") == "running").select("delivered_ds").distinct()
    others = [row.delivered_ds for row in running.collect() if row.delivered_ds not in days]
    if not others:
        return None
    for source in context.catalog.sources:
        rows = context.lake.read(source_table_name(source.name)).where(F.col("delivered_ds").isin(others))
        if source.kind == "events":
            rows = on_days(rows, days).where(F.col("available_time") <= known)
        else:
            rows = rows.where((F.col("ds") <= F.lit(days.last)) & (F.col("available_time") <= F.lit(latest.isoformat()).cast("timestamp")))
            if source.lookback_days is not None:
                rows = rows.where(F.col("ds") > F.date_sub(F.lit(days.first), source.lookback_days))
        first = rows.agg(F.min("delivered_ds").alias("first")).collect()[0].first
        if first is not None:
            return first, source.name
    return None


def _require_validated(context: Context, days: Days, version: int) -> None:
    """By `deliveries` at `version`."""
    rows = on_days(context.lake.read("deliveries", version), days, "delivered_ds")
    gates = {(r.source, r.delivered_ds): r.gate for r in rows.groupBy("source", "delivered_ds").agg(F.min("gate").alias("gate")).collect()}
    for ds in days:
        for source in context.catalog.sources:
            _require_passed(source.name, ds, gates.get((source.name, ds)))


def _require_passed(source: str, ds: date, gate: str | None) -> None:
    """`gate` is the least of the day's deliveries: 'blocked' sorts before 'passed', and all of them are 'running' or none."""
    if gate is None:
        raise BadInput(f"source {source}, {ds}: not validated, expected a passed delivery; run `u2qt validate --ds {ds}` first")
    if gate == "running":
        raise GateRefused(f"source {source}, {ds}: its last validation did not end, expected a passed delivery; run `u2qt validate --ds {ds}` again")
    if gate != "passed":
        raise GateRefused(
            f"source {source}, {ds}: its delivery is {gate}, expected passed; see `u2qt status --ds {ds}`, mend the delivery and run `u2qt validate --ds {ds}`"
        )


def _events(context: Context, days: Days, known: Column, record: StageRecord) -> DataFrame:
    """Every event of the days that was known at the cutoff, all sources in one frame."""
    frames = []
    for source in context.catalog.events:
        rows = on_days(passed_rows(context, source, record.read), days).where(F.col("available_time") <= known)
        frames.append(events(latest_versions(rows, source), source, context.catalog))
    united = frames[0]
    for frame in frames[1:]:
        united = united.unionByName(frame)
    return united


def _with_profile(context: Context, days: Days, users: DataFrame, active: DataFrame, known: Column, record: StageRecord) -> DataFrame:
    profile = context.catalog.profile
    assert profile is not None, "the caller checks"
    rows = passed_rows(context, profile, record.read).where(F.col("ds") <= F.lit(days.last))
    if profile.lookback_days is not None:
        rows = rows.where(F.col("ds") > F.date_sub(F.lit(days.first), profile.lookback_days))
    return with_profile(users, profiles_at(rows, active, profile, context.catalog, known), profile)


def _write(context: Context, days: Days, rows: DataFrame, record: StageRecord) -> None:
    """At least two files per slot over the chunk, so that encoding has units to share out; none above ROWS_PER_FILE."""
    slots = context.spark.sparkContext.defaultParallelism
    per_day = -(-UNITS_PER_SLOT * slots // len(days))
    bucket = F.pmod(F.xxhash64("user_id"), F.lit(per_day))
    spread = rows.repartition(write_tasks(per_day * len(days), slots), "ds", bucket).sortWithinPartitions("ds", "user_id")
    where = Where(days=days)
    metadata = {"run_id": context.run_id, "stage": record.stage, "read": record.read}
    version = context.lake.replace("user_features", spread, where, metadata, ROWS_PER_FILE)
    record.written["user_features"] = version
    record.rows["user_features"] = sum(f.rows for f in context.lake.active_files("user_features", version, where))


def _reconcile(context: Context, days: Days, all_events: DataFrame, record: StageRecord) -> None:
    """Users and events of the written version equal those counted from the events themselves; then the suite."""
    kept = {r.source: r.kept for r in all_events.groupBy("source").agg(F.count(F.lit(1)).alias("kept")).collect()}
    active = all_events.select("user_id", "ds").distinct().count()
    written = on_days(context.lake.read("user_features", record.written["user_features"]), days)
    sums = written.agg(F.count(F.lit(1)).alias("users"), *(F.sum(f"{s.name}_count").alias(s.name) for s in context.catalog.events)).first()
    assert sums is not None, "an aggregate has one row"
    for source in context.catalog.events:
        record.rows[f"{source.name}.events"] = kept.get(source.name, 0)
        record.rows[f"{source.name}.superseded"] = record.rows[f"{source.name}.available"] - kept.get(source.name, 0)
        if (sums[source.name] or 0) != kept.get(source.name, 0):
            raise RuntimeError(f"user_features, {days}: {sums[source.name]} events of {source.name}, expected {kept.get(source.name, 0)}")
    if not sums["users"] == active == record.rows["user_features"]:
        raise RuntimeError(f"user_features, {days}: {sums['users']} rows, {active} active users, {record.rows['user_features']} in Delta's statistics")
    if active:
        _gate(context, days, written, active)


def _gate(context: Context, days: Days, written: DataFrame, active: int) -> None:
    result = quality.evaluate(written, quality.packaged_suite("user_features.json", context.catalog.feature_layout(), rows=active))
    if result.failures:
        raise GateRefused("\n".join(f"user_features, {days}: {failure}" for failure in result.failures))


if __name__ == "__main__":
    from jobs.cli import submit

    submit("build")
