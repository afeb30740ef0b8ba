"""Commands over many days: what has to be done again, and doing it."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from jobs.cli_options import Version, console, days_of, print_run, say, with_spark
from jobs.errors import BadInput
from schemas import keys

app = typer.Typer()
First = Annotated[str, typer.Option("--from", help="First day.")]
Last = Annotated[str, typer.Option("--to", help="Last day.")]
Known = Annotated[str | None, typer.Option("--cutoff", help="Moment, ISO 8601 with offset: rows known by then count as late [default: what is validated].")]
FORMATS = ("table", "json", "days")


@app.command()
@with_spark
def plan(
    context: Any,
    first: First,
    last: Last,
    tokenizer_version: Version = None,
    cutoff: Known = None,
    format: Annotated[str, typer.Option("--format", help="table, json (one object per entry), or days (a JSON array of days, for a scheduler).")] = "table",
) -> None:
    """Each stage of each day that is missing, failed or stale, and why. Changes nothing."""
    from jobs import plan_days

    if format not in FORMATS:
        raise BadInput(f"--format {format}: expected one of {', '.join(FORMATS)}")
    days = days_of(None, first, last)
    entries = plan_days.run(context, days, tokenizer_version, keys.moment(cutoff) if cutoff else None)
    if format == "days":
        sys.stdout.write(json.dumps([str(ds) for ds in dict.fromkeys(e.ds for e in entries)]) + "\n")
    elif format == "json":
        for e in entries:
            seconds = None if e.seconds is None else round(e.seconds, 1)
            sys.stdout.write(json.dumps({"ds": str(e.ds), "stage": e.stage, "reason": e.reason, "rows": e.rows, "seconds": seconds}) + "\n")
    else:
        _show(entries, days)
        _say_removed(context, days)


def _show(entries: list[Any], days: keys.Days) -> None:
    if not entries:
        say(f"{days}: nothing to do")
        return
    table = Table("day", "stage", "why", "rows", "seconds", box=None, pad_edge=False)
    for column in table.columns[3:]:
        column.justify = "right"
    for e in entries:
        table.add_row(str(e.ds), e.stage, e.reason, "" if e.rows is None else f"{e.rows:,}", "" if e.seconds is None else f"{e.seconds:.1f}")
    console.print(table)
    known = [e.seconds for e in entries if e.seconds is not None]
    worked = len({e.ds for e in entries})
    say(f"{worked} of {len(days)} days, {len(entries)} stages, about {sum(known) / 60:.1f} min by the ledger, one day at a time")
    say(f"next: u2qt backfill --from {days.first} --to {days.last}")


def _say_removed(context: Any, days: keys.Days) -> None:
    """Removed days are not planned; silence would make them look complete."""
    from jobs import retention

    gone = {table: day for table, day in sorted(retention.removed_through(context).items()) if day >= days.first}
    for day in sorted(set(gone.values())):
        say(f"removed by retention, up to {day}: {', '.join(table for table in gone if gone[table] == day)}")


@app.command()
@with_spark
def backfill(
    context: Any,
    first: First,
    last: Last,
    tokenizer_version: Version = None,
    cutoff: Known = None,
    days_at_once: Annotated[int, typer.Option("--days-at-once", min=1, help="Days that share a job; memory and temporary disk grow with it.")] = 7,
    only_writer: Annotated[bool, typer.Option("--only-writer", help="Nothing else writes meanwhile, so a log store for one driver will do.")] = False,
) -> None:
    """Carries the plan out, oldest day first. Interrupted, it goes on where it stopped when run again."""
    from jobs import backfill_days
    from jobs.log_stores import require_many_drivers

    days = days_of(None, first, last)
    if not only_writer:
        require_many_drivers("backfill", context.lake.root, dict(context.spark.sparkContext.getConf().getAll()))

    def tell(chunk: Any, number: int, total: int) -> None:
        say(f"[{number}/{total}] {chunk.days}: {', '.join(chunk.stages)}")

    try:
        worked = backfill_days.run(context, days, tokenizer_version, cutoff=keys.moment(cutoff) if cutoff else None, days_at_once=days_at_once, tell=tell)
    finally:
        print_run(context, *backfill_days.run_ids(context.run_id))
    say(f"{days}: {worked} days worked on" if worked else f"{days}: nothing to do")
