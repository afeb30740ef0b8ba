"""What table `deliveries` says of a source's day: running while its rows are written, then passed or blocked.

Used by `validate_sources` and `replay_quarantine`. A day is judged by itself, whatever days were written with it.
"""

from collections.abc import Sequence
from datetime import date

from pyspark.sql import Column, Row
from pyspark.sql import functions as F

from jobs import quality
from jobs.context import Context
from jobs.delta_tables import Where, on_days
from jobs.quality import Suite
from schemas.catalog import Source
from schemas.keys import Days
from schemas.source_events import source_table_name

RUNNING, PASSED, BLOCKED = "running", "passed", "blocked"
ROW_COUNT = "expect_table_row_count_to_be_between"


def announce(context: Context, days: Days, stage: str, source: str | None = None) -> None:
    """Says of days that were validated before (of one source, or of all) that they are not now: half of a delivery may be in the tables.

    To be called before the first table is written, and not before all input is there: what stood stands where nothing was written.
    """
    where = Where(days=days, day_column="delivered_ds", equals=() if source is None else (("source", source),))
    if not context.lake.active_files("deliveries", context.lake.version("deliveries"), where):
        return
    rows = context.lake.read("deliveries").where(where.sql()).withColumn("gate", F.lit(RUNNING))
    context.lake.replace("deliveries", rows.coalesce(1), where, {"run_id": context.run_id, "stage": stage})


def null_counts(source: Source, among: Column) -> Column:
    """MAP of each nullable column to the number of rows `among` which it has no value. An aggregate."""
    counts = [part for c in source.columns if c.nullable for part in (F.lit(c.name), F.count_if(among & F.col(c.name).isNull()))]
    return F.create_map(*counts).cast("map<string,bigint>")


def refusals(context: Context, source: Source, days: Days, deliveries: Sequence[Row], written: int) -> dict[date, list[str]]:
    """Why days are blocked, by day; a day that passed is not in it.

    `deliveries`: delivered_ds, rows_in and clean of the days' deliveries. `written`: the version of the source's table to evaluate.
    """
    rows_in, clean = dict.fromkeys(days, 0), {delivery.delivered_ds: 0 for delivery in deliveries}
    for delivery in deliveries:
        rows_in[delivery.delivered_ds] += delivery.rows_in
        clean[delivery.delivered_ds] += delivery.clean
    found = {ds: [_too_few(source, ds, rows)] for ds, rows in rows_in.items() if rows < source.min_rows_per_day}
    judged = {ds: clean.get(ds, 0) for ds in days if source.min_rows_per_day or ds in clean}  # a day that may be empty and is has nothing to evaluate
    for ds, failures in _suite_failures(context, source, days, judged, written).items():
        found[ds] = [*found.get(ds, []), *failures]
    return found


def _too_few(source: Source, ds: date, rows: int) -> str:
    return (
        f"source {source.name}, {ds}: {rows} rows delivered, expected at least {source.min_rows_per_day} (min_rows_per_day); "
        f"ask the owner for the day, or lower the minimum in sources/{source.name}.yaml"
    )


def _suite_failures(context: Context, source: Source, days: Days, clean: dict[date, int], written: int) -> dict[date, list[str]]:
    """Failing expectations on the written version. Days are looked at together, and one by one where something is wrong."""
    if not clean:
        return {}
    suite = quality.load_suite(context.catalog.suites[source.name], f"expectations/sources/{source.name}.json")
    together = _failures(context, source, days, suite, written)
    if len(days) == 1:
        return {ds: together for ds in clean if together}
    if not together and all(_row_count_holds(suite, rows) for rows in clean.values()):
        return {}
    alone = {ds: _failures(context, source, Days(ds, ds), suite, written) for ds in clean}
    return {ds: failures for ds, failures in alone.items() if failures} or dict.fromkeys(clean, together)


def _failures(context: Context, source: Source, days: Days, suite: Suite, written: int) -> list[str]:
    rows = on_days(context.lake.read(source_table_name(source.name), written), days, "delivered_ds")
    return [f"source {source.name}, {days}: {failure}" for failure in quality.evaluate(rows, suite).failures]


def _row_count_holds(suite: Suite, rows: int) -> bool:
    """The one expectation that days can break which hold it together."""
    bounds = [expectation.kwargs for expectation in suite.expectations if expectation.type == ROW_COUNT]
    return all((kwargs.get("min_value") or 0) <= rows <= (kwargs.get("max_value") or rows) for kwargs in bounds)
