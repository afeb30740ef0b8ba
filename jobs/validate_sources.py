"""validate_sources: raw deliveries become clean rows, quarantined rows and counted duplicates.

Reads the raw input of each source for the days of delivery.
Writes source_<name>, quarantine_<name> (by delivered_ds) and deliveries (by source, delivered_ds).
Key: one distinct raw row of one delivery. Idempotent on (source, delivered_ds): a re-run replaces those partitions.
Every raw row ends clean, quarantined or collapsed as an exact duplicate, and the sum is checked against an independent
count of the raw rows. Cost grows with the rows of the chunk; the driver sees one row per delivery.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs import quality
from jobs.context import Context
from jobs.delta_tables import Where, on_days
from jobs.errors import BadInput, GateRefused
from jobs.ledger import StageRecord, record_stage
from jobs.raw_input import ColumnNotes, last_delivered, raw_rows, read_fault
from jobs.validation_rules import checked_rows, clean_rows, quarantined_rows
from jobs.work_units import write_tasks
from schemas.catalog import Source
from schemas.keys import Days
from schemas.quarantine import quarantine_table_name
from schemas.source_events import source_table_name

SOURCES_AT_ONCE = 3  # most of a small source's time is the driver's; three overlap it on two cores
OUTCOMES = ("rows_in", "clean", "quarantined", "duplicates")


def delivery_outcomes(checked: DataFrame) -> DataFrame:
    """One row per delivery: how many raw rows ended how."""
    clean = F.size("reasons") == 0
    return checked.groupBy("delivered_ds", "delivery_id").agg(
        F.sum("copies").alias("rows_in"),
        F.count_if(clean).alias("clean"),
        F.count_if(~clean).alias("quarantined"),
        F.sum(F.col("copies") - 1).alias("duplicates"),
    )


@dataclass(kw_only=True, slots=True)
class SourceOutcome:
    """What became of one source's deliveries."""

    source: str
    deliveries: list[Row]
    written: dict[str, int] = field(default_factory=dict)  # table -> version
    refusals: list[str] = field(default_factory=list)
    columns: ColumnNotes = field(default_factory=ColumnNotes)


def run(context: Context, days: Days) -> None:
    """Raises `BadInput` for unreadable or undelivered input, `GateRefused` (after all sources) where a gate blocked."""
    with record_stage(context, "validate_sources", days) as record:
        with ThreadPoolExecutor(SOURCES_AT_ONCE) as pool:
            outcomes = list(pool.map(partial(validate_source, context, days), context.catalog.sources))
        _refuse_days_after_the_last(context, days, outcomes)
        _write_deliveries(context, days, outcomes)
        _fill(record, outcomes)
        refusals = [refusal for outcome in outcomes for refusal in outcome.refusals]
        if refusals:
            raise GateRefused("\n".join(refusals))


def validate_source(context: Context, days: Days, source: Source) -> SourceOutcome:
    """Writes both tables of `source` for `days` and evaluates its suite on the written version."""
    try:
        columns = ColumnNotes()
        raw = raw_rows(context.spark, source, context.input_root, days, columns)
        counted = raw.groupBy("delivered_ds", "delivery_id").agg(F.count(F.lit(1)).alias("rows_in")).collect()
        checked = checked_rows(raw, source, context.catalog).persist(StorageLevel.MEMORY_AND_DISK)
        try:
            return replace(_write(context, days, source, checked, counted), columns=columns)
        finally:
            checked.unpersist()
    except BadInput:
        raise
    except Exception as error:
        cause = read_fault(error)
        if cause is None:
            raise
        raise BadInput(
            f"source {source.name}, {days}: a file of its input can't be read ({cause}); expected whole {source.input.format} "
            f"files with the declared columns; ask the owner to deliver again"
        ) from None


def _write(context: Context, days: Days, source: Source, checked: DataFrame, counted: list[Row]) -> SourceOutcome:
    outcome = SourceOutcome(source=source.name, deliveries=delivery_outcomes(checked).collect())
    _reconcile(source, counted, outcome.deliveries)
    outcome.refusals += _too_few(source, days, outcome.deliveries)
    where, metadata = Where(days=days, day_column="delivered_ds"), {"run_id": context.run_id, "stage": "validate_sources"}
    run_id = F.lit(context.run_id).alias("run_id")
    tables = {
        source_table_name(source.name): (clean_rows(checked, source).select("*", run_id), "clean"),
        quarantine_table_name(source.name): (quarantined_rows(checked).select("*", run_id), "quarantined"),
    }
    tasks = write_tasks(len(days), context.spark.sparkContext.defaultParallelism)
    for table, (rows, count) in tables.items():
        version = context.lake.replace(table, rows.repartition(tasks, "delivered_ds"), where, metadata)
        written = sum(f.rows for f in context.lake.active_files(table, version, where))
        expected = sum(d[count] for d in outcome.deliveries)
        if written != expected:
            raise RuntimeError(f"{table}, {days}: wrote {written} rows, expected {expected}")
        outcome.written[table] = version
    outcome.refusals += _suite_refusals(context, source, days, outcome)
    return outcome


def _reconcile(source: Source, counted: list[Row], deliveries: list[Row]) -> None:
    """Rows in, counted apart from the validation, equal the sum of the outcomes of every delivery."""
    raw = {(r.delivered_ds, r.delivery_id): r.rows_in for r in counted}
    sums = {(d.delivered_ds, d.delivery_id): d.clean + d.quarantined + d.duplicates for d in deliveries}
    if raw != sums:
        raise RuntimeError(f"source {source.name}: rows in {sorted(raw.items())}, outcomes {sorted(sums.items())}; a row was lost or doubled")


def _too_few(source: Source, days: Days, deliveries: list[Row]) -> list[str]:
    rows = {ds: sum(d.rows_in for d in deliveries if d.delivered_ds == ds) for ds in days}
    return [
        f"source {source.name}, {ds}: {found} rows delivered, expected at least {source.min_rows_per_day} (min_rows_per_day); "
        f"ask the owner for the day, or lower the minimum in sources/{source.name}.yaml"
        for ds, found in rows.items()
        if found < source.min_rows_per_day
    ]


def _suite_refusals(context: Context, source: Source, days: Days, outcome: SourceOutcome) -> list[str]:
    """Failing expectations on the written version; a day allowed to be empty has nothing to evaluate."""
    table = source_table_name(source.name)
    if not outcome.deliveries and source.min_rows_per_day == 0:
        return []
    suite = quality.load_suite(context.catalog.suites[source.name], f"expectations/sources/{source.name}.json")
    written = on_days(context.lake.read(table, outcome.written[table]), days, "delivered_ds")
    result = quality.evaluate(written, suite)
    return [f"source {source.name}, {days}: {failure}" for failure in result.failures]


def _refuse_days_after_the_last(context: Context, days: Days, outcomes: list[SourceOutcome]) -> None:
    """With deliveries named by a column alone an empty day may be a day that was never delivered; a day's folder is an answer."""
    if any(source.input.delivered_ds is None for source in context.catalog.sources):
        return
    if any(delivery.delivered_ds == days.last for outcome in outcomes for delivery in outcome.deliveries):
        return
    known = [last_delivered(context.spark, s, context.input_root) for s in context.catalog.sources]
    last = max((day for day in known if day is not None), default=None)
    if last is None or days.last > last:
        raise BadInput(f"--ds {days}: no source delivered anything on {days.last}, and the last delivered day is {last}; expected a day not after it")


def _write_deliveries(context: Context, days: Days, outcomes: list[SourceOutcome]) -> None:
    """All sources in one commit: the day is validated when it stands."""
    rows = [
        (o.source, d.delivered_ds, d.delivery_id, *(d[name] for name in OUTCOMES), "blocked" if o.refusals else "passed", context.run_id)
        for o in outcomes
        for d in (*o.deliveries, *_nothing(o, days))
    ]
    schema = context.lake.read("deliveries").schema
    frame = context.spark.createDataFrame(rows, schema).coalesce(1)
    context.lake.replace("deliveries", frame, Where(days=days, day_column="delivered_ds"), {"run_id": context.run_id, "stage": "validate_sources"})


def _nothing(outcome: SourceOutcome, days: Days) -> list[Row]:
    """An empty delivery for each day without one: the ledger says that the source was looked at and had nothing."""
    delivered = {d.delivered_ds for d in outcome.deliveries}
    none = dict.fromkeys(OUTCOMES, 0)
    return [Row(delivered_ds=ds, delivery_id=f"{outcome.source}-{ds}", **none) for ds in days if ds not in delivered]


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
