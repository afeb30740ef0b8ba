"""validate_sources: raw deliveries become clean rows, quarantined rows and counted duplicates.

Reads the raw input of each source for the days of delivery.
Writes source_<name>, quarantine_<name> (by delivered_ds) and deliveries (by source, delivered_ds).
Key: one distinct raw row of one delivery. Idempotent on (source, delivered_ds): a re-run replaces those partitions.
Every raw row ends clean, quarantined, collapsed as an exact duplicate, or refused as a forgotten user's (nothing of it is
kept), and the sum is checked against an independent count of the raw rows. A day whose raw rows, declarations and clean
rows are as its last run left them is skipped.
Cost grows with the rows of the chunk; the driver sees one row per delivery.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial, reduce
from urllib.parse import unquote

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs.changed_days import being_validated, changed_days
from jobs.context import Context
from jobs.day_states import NOTHING, DayState, definition_hash, sum_text, summed
from jobs.delivery_gates import BLOCKED, PASSED, announce, null_counts, refusals
from jobs.delta_tables import Where, on_days
from jobs.errors import BadInput, GateRefused, U2qtError
from jobs.forgotten_ids import Key, marked, required_key
from jobs.ledger import StageRecord, record_stage
from jobs.raw_input import ColumnNotes, last_delivered, raw_rows, read_fault
from jobs.source_columns import require_its_columns
from jobs.validation_rules import checked_rows, clean_rows, quarantined_rows
from jobs.work_units import write_tasks
from schemas.catalog import Catalog, Source
from schemas.deliveries import DELIVERIES
from schemas.keys import Days
from schemas.quarantine import quarantine_table_name
from schemas.source_events import source_table_name

STAGE = "validate_sources"
SOURCES_AT_ONCE = 3  # most of a small source's time is the driver's; three overlap it on two cores
RULES = 1  # counts changes of the meaning of validation_rules
OUTCOMES = ("rows_in", "clean", "quarantined", "duplicates", "forgotten")


def delivery_outcomes(checked: DataFrame, source: Source) -> DataFrame:
    """One row per delivery: how many raw rows ended how, and how many clean ones lack a value of a nullable column."""
    kept, clean = ~F.col("forgotten"), F.size("reasons") == 0
    return checked.groupBy("delivered_ds", "delivery_id").agg(
        F.sum("copies").alias("rows_in"),
        F.count_if(kept & clean).alias("clean"),
        F.count_if(kept & ~clean).alias("quarantined"),
        F.count_if(~kept).alias("forgotten"),
        F.sum(F.col("copies") - 1).alias("duplicates"),
        null_counts(source, kept & clean).alias("nulls"),
    )


@dataclass(kw_only=True, slots=True)
class SourceOutcome:
    """What became of one source's deliveries."""

    source: str
    deliveries: list[Row]
    raw: dict[date, str]  # sum of the raw rows per day of delivery
    written: dict[str, int] = field(default_factory=dict)  # table -> version
    refusals: dict[date, list[str]] = field(default_factory=dict)  # of the days that are blocked
    columns: ColumnNotes = field(default_factory=ColumnNotes)


def run(context: Context, days: Days, *, force: bool = False) -> None:
    """Raises `BadInput` for unreadable or undelivered input, `GateRefused` (after all sources) where a gate blocked."""
    with record_stage(context, STAGE, days, only_errors=True):
        require_its_columns(context)
    with changed_days(context, STAGE, days, partial(describe, context), force=force) as parts:
        for part in parts:
            _run(context, part)


def _run(context: Context, days: Days) -> None:
    with record_stage(context, STAGE, days) as record:
        key, announced = required_key(context), Once(partial(announce, context, days, STAGE))
        with being_validated(context.lake, days), ThreadPoolExecutor(SOURCES_AT_ONCE) as pool:
            opened = list(pool.map(partial(opened_source, context, days), context.catalog.sources))
            _refuse_days_after_the_last(context, days, opened)
            outcomes = list(pool.map(partial(validate_source, context, days, key=key, before_writing=announced), opened))
            _write_deliveries(context, days, outcomes)
        _fill(record, outcomes)
        record.states += states(context, days, {outcome.source: outcome.raw for outcome in outcomes}).values()
        lines = [line for outcome in outcomes for of_day in outcome.refusals.values() for line in of_day]
        if lines:
            raise GateRefused("\n".join(dict.fromkeys(lines)))


class Once:
    """Calls `what` when it is called first; whoever calls meanwhile waits for that."""

    def __init__(self, what: Callable[[], None]) -> None:
        self._what, self._lock, self._done = what, threading.Lock(), False

    def __call__(self) -> None:
        with self._lock:
            if not self._done:
                self._what()
                self._done = True


def describe(context: Context, days: Days) -> dict[date, DayState]:
    """What there is to validate on `days`, and what is validated. Reads the raw rows once."""

    def raw_sums(source: Source) -> dict[date, str]:
        with naming_the_source(context, source, days):
            return _raw_sums(counted_rows(raw_rows(context.spark, source, context.input_root, days)))

    with ThreadPoolExecutor(SOURCES_AT_ONCE) as pool:
        sums = dict(zip((s.name for s in context.catalog.sources), pool.map(raw_sums, context.catalog.sources), strict=True))
    return states(context, days, sums)


def counted_rows(raw: DataFrame) -> list[Row]:
    """Rows and hashes of each delivery, counted apart from the validation.

    Only values that are there are hashed, with their columns' names: read beside another day, a day has that day's columns too, all null.
    """
    names = raw.schema["raw"].dataType.fieldNames()  # type: ignore[attr-defined]
    fields = [(name, F.col("raw").getField(name)) for name in sorted(names)]
    there = [F.when(value.isNotNull(), F.struct(F.lit(name).alias("name"), value.alias("value"))) for name, value in fields]
    return summed(raw.withColumn("row_hash", F.xxhash64(F.array_compact(F.array(*there)))), "delivered_ds", "delivery_id").collect()


def _raw_sums(counted: list[Row]) -> dict[date, str]:
    """The deliveries of a day taken together."""
    totals: dict[date, tuple[int, int]] = {}
    for row in counted:
        rows, hashes = totals.get(row.delivered_ds, (0, 0))
        totals[row.delivered_ds] = (rows + row["rows"], hashes + int(row["hashes"]))
    return {ds: sum_text(Row(rows=rows, hashes=hashes)) for ds, (rows, hashes) in totals.items()}


def states(context: Context, days: Days, raw: dict[str, dict[date, str]]) -> dict[date, DayState]:
    """The clean rows as the tables have them now, and how many are refused, beside the raw rows behind them."""
    outputs: dict[tuple[date, str], str] = {
        (row["delivered_ds"], row["table"]): sum_text(row) for row in summed(_written_rows(context, days), "delivered_ds", "table").collect()
    }
    tables = ["deliveries", *(name(s.name) for s in context.catalog.sources for name in (source_table_name, quarantine_table_name))]
    definition = clean_rows_definition(context.catalog)
    return {
        ds: DayState(
            ds=ds,
            definition=definition,
            inputs={source: sums.get(ds, NOTHING) for source, sums in raw.items()},
            outputs={table: outputs.get((ds, table), NOTHING) for table in tables},
        )
        for ds in days
    }


def clean_rows_definition(catalog: Catalog) -> str:
    """Of what decides which rows are clean; not how a suite's file is laid out."""
    return definition_hash(RULES, catalog.time_zone, [(s.meaning(), json.loads(catalog.suites[s.name])["expectations"]) for s in catalog.sources])


def _written_rows(context: Context, days: Days) -> DataFrame:
    """table, delivered_ds, row_hash of every clean and quarantined row and every delivery's gate; a quarantined row's hash is 0."""
    frames = []
    for source in context.catalog.sources:
        for name, row_hash in ((source_table_name(source.name), F.col("row_hash")), (quarantine_table_name(source.name), F.lit(0).cast("bigint"))):
            rows = on_days(context.lake.read(name), days, "delivered_ds")
            frames.append(rows.select(F.lit(name).alias("table"), "delivered_ds", row_hash.alias("row_hash")))
    gates = on_days(context.lake.read("deliveries"), days, "delivered_ds")
    frames.append(gates.select(F.lit("deliveries").alias("table"), "delivered_ds", F.xxhash64("source", "delivery_id", "gate").alias("row_hash")))
    return reduce(DataFrame.unionAll, frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedSource:
    """The raw rows of a source, not read yet, and what their columns are unlike."""

    source: Source
    raw: DataFrame
    columns: ColumnNotes


def opened_source(context: Context, days: Days, source: Source) -> OpenedSource:
    """Raises `BadInput` where the input of `days` is missing or has not the declared columns."""
    with naming_the_source(context, source, days):
        columns = ColumnNotes()
        return OpenedSource(source=source, raw=raw_rows(context.spark, source, context.input_root, days, columns), columns=columns)


def validate_source(context: Context, days: Days, opened: OpenedSource, *, key: Key | None, before_writing: Callable[[], None]) -> SourceOutcome:
    """Writes both tables of a source for `days` and evaluates its suite on the written version. `key` tells whose rows are refused."""
    source = opened.source
    with naming_the_source(context, source, days):
        counted = counted_rows(opened.raw)
        rows = checked_rows(opened.raw, source, context.catalog)
        if key is not None:  # which are marked in two parts
            rows = rows.persist(StorageLevel.MEMORY_AND_DISK)
        checked = marked(rows, context, key).persist(StorageLevel.MEMORY_AND_DISK)
        try:
            return _write(context, days, opened, checked, counted, before_writing)
        finally:
            checked.unpersist()
            rows.unpersist()


@contextmanager
def naming_the_source(context: Context, source: Source, days: Days) -> Iterator[None]:
    """A file that Spark can't read becomes `BadInput` with the source's name; one of the lakehouse's own is not the owner's fault."""
    try:
        yield
    except U2qtError:
        raise
    except Exception as error:
        cause = read_fault(error)
        ours = ("deliveries", "forgotten", source_table_name(source.name), quarantine_table_name(source.name))
        if cause is None or any(f"{context.lake.path(table)}/" in unquote(str(error)) for table in ours):
            raise
        raise BadInput(
            f"source {source.name}, {days}: a file of its input can't be read ({cause}); expected whole {source.input.format} "
            f"files with the declared columns; ask the owner to deliver again"
        ) from None


def _write(context: Context, days: Days, opened: OpenedSource, checked: DataFrame, counted: list[Row], before_writing: Callable[[], None]) -> SourceOutcome:
    source = opened.source
    outcome = SourceOutcome(source=source.name, deliveries=delivery_outcomes(checked, source).collect(), raw=_raw_sums(counted), columns=opened.columns)
    _reconcile(source, counted, outcome.deliveries)
    where, metadata = Where(days=days, day_column="delivered_ds"), {"run_id": context.run_id, "stage": STAGE}
    run_id = F.lit(context.run_id).alias("run_id")
    kept = checked.where(~F.col("forgotten"))
    tables = {
        source_table_name(source.name): (clean_rows(kept, source).select("*", run_id), "clean"),
        quarantine_table_name(source.name): (quarantined_rows(kept, opened.columns.of_day).select("*", run_id), "quarantined"),
    }
    tasks = write_tasks(len(days), context.spark.sparkContext.defaultParallelism)
    before_writing()
    for table, (rows, count) in tables.items():
        version = context.lake.replace(table, rows.repartition(tasks, "delivered_ds"), where, metadata)
        written = sum(f.rows for f in context.lake.active_files(table, version, where))
        expected = sum(d[count] for d in outcome.deliveries)
        if written != expected:
            raise RuntimeError(f"{table}, {days}: wrote {written} rows, expected {expected}")
        outcome.written[table] = version
    outcome.refusals = refusals(context, source, days, outcome.deliveries, outcome.written[source_table_name(source.name)])
    return outcome


def _reconcile(source: Source, counted: list[Row], deliveries: list[Row]) -> None:
    """Rows in, counted apart from the validation, equal the sum of the outcomes of every delivery."""
    raw = {(r.delivered_ds, r.delivery_id): r["rows"] for r in counted}
    sums = {(d.delivered_ds, d.delivery_id): d.clean + d.quarantined + d.duplicates + d.forgotten for d in deliveries}
    if raw != sums:
        raise RuntimeError(f"source {source.name}: rows in {sorted(raw.items())}, outcomes {sorted(sums.items())}; a row was lost or doubled")


def _refuse_days_after_the_last(context: Context, days: Days, opened: list[OpenedSource]) -> None:
    """With deliveries named by a column alone an empty day may be a day that was never delivered; a day's folder is an answer.

    Before anything is written: what the days have stays, as an input that lost its newest days is no word about them.
    """
    if any(source.input.delivered_ds is None for source in context.catalog.sources):
        return
    if any(not rows_of.raw.where(F.col("delivered_ds") == F.lit(days.last)).isEmpty() for rows_of in opened):
        return
    known = [last_delivered(context.spark, s, context.input_root) for s in context.catalog.sources]
    last = max((day for day in known if day is not None), default=None)
    if last is None or days.last > last:
        raise BadInput(f"--ds {days}: no source delivered anything on {days.last}, and the last delivered day is {last}; expected a day not after it")


def _write_deliveries(context: Context, days: Days, outcomes: list[SourceOutcome]) -> None:
    """All sources in one commit: the day is validated when it stands."""
    rows = [
        {"source": o.source, "delivered_ds": d.delivered_ds, "delivery_id": d.delivery_id, "gate": BLOCKED if d.delivered_ds in o.refusals else PASSED}
        | {name: d[name] for name in (*OUTCOMES, "nulls")}
        | {"run_id": context.run_id}
        for o in outcomes
        for d in (*o.deliveries, *_nothing(o, days))
    ]
    context.lake.replace(
        "deliveries", context.lake.frame(DELIVERIES, rows), Where(days=days, day_column="delivered_ds"), {"run_id": context.run_id, "stage": STAGE}
    )


def _nothing(outcome: SourceOutcome, days: Days) -> list[Row]:
    """An empty delivery for each day without one: the ledger says that the source was looked at and had nothing."""
    delivered = {d.delivered_ds for d in outcome.deliveries}
    none = dict.fromkeys(OUTCOMES, 0)
    return [Row(delivered_ds=ds, delivery_id=f"{outcome.source}-{ds}", nulls={}, **none) for ds in days if ds not in delivered]


def _fill(record: StageRecord, outcomes: list[SourceOutcome]) -> None:
    for outcome in outcomes:
        record.written |= outcome.written
        record.notes |= {f"{outcome.source}, {what}": names for what, names in outcome.columns.lines().items()}
        for name in OUTCOMES:
            total = sum(d[name] for d in outcome.deliveries)
            record.rows[name] = record.rows.get(name, 0) + total
            record.rows[f"{outcome.source}.{name}"] = total


if __name__ == "__main__":
    from jobs.cli import submit

    submit("validate")
