"""Commands of the daily run: its stages one by one or together, and what became of a day."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli_options import Ds, From, To, Version, console, days_of, print_run, say, staged, with_spark
from jobs.errors import BadInput
from schemas import keys

app = typer.Typer()
Force = Annotated[bool, typer.Option("--force", help="Work although nothing changed since the last run.")]
Cutoff = Annotated[str | None, typer.Option("--cutoff", help="Moment, ISO 8601 with offset, up to which rows may know.")]

Accept = Annotated[str | None, typer.Option("--accept", help="Reason to publish a day that its audit found unlike the days before it.")]


@app.command()
@partial(with_spark, alone="where possible")
def init(context: Any) -> None:
    """Creates the lakehouse's tables."""
    from jobs import init_lakehouse

    made = init_lakehouse.run(context)
    added = f", {made['columns_added']} columns added to them" if made["columns_added"] else ""
    say(f"{context.lake.root}: {made['created']} tables created, {made['existing']} were there{added} (catalog {context.catalog.name})")


@app.command()
@with_spark
def validate(context: Any, ds: Ds = None, first: From = None, last: To = None, force: Force = False) -> None:
    """Raw deliveries -> clean rows, quarantine, counted duplicates."""
    from jobs import validate_sources

    staged(context, validate_sources.run, days_of(ds, first, last), force=force)


@app.command()
@with_spark
def build(context: Any, ds: Ds = None, first: From = None, last: To = None, cutoff: Cutoff = None, force: Force = False) -> None:
    """Clean rows -> one feature row per active user and day."""
    from jobs import build_user_features

    staged(context, build_user_features.run, days_of(ds, first, last), keys.moment(cutoff) if cutoff else None, force=force)


@app.command()
@with_spark
def encode(context: Any, ds: Ds = None, first: From = None, last: To = None, tokenizer_version: Version = None, force: Force = False) -> None:
    """Feature rows -> staged codes."""
    from jobs import encode_users

    staged(context, encode_users.run, days_of(ds, first, last), tokenizer_version, force=force)


@app.command()
@with_spark
def audit(context: Any, ds: Ds = None, first: From = None, last: To = None, tokenizer_version: Version = None, force: Force = False) -> None:
    """Evaluates the gate on the staged codes."""
    from jobs import audit_tokens

    staged(context, audit_tokens.run, days_of(ds, first, last), tokenizer_version, force=force)


@app.command()
@with_spark
def publish(
    context: Any, ds: Ds = None, first: From = None, last: To = None, tokenizer_version: Version = None, accept: Accept = None, force: Force = False
) -> None:
    """Audited codes -> user_tokens, in one commit."""
    from jobs import publish_tokens

    staged(context, publish_tokens.run, days_of(ds, first, last), tokenizer_version, accept, force=force)


@app.command("run-day")
@with_spark
def run_day(
    context: Any, ds: Ds = None, first: From = None, last: To = None, tokenizer_version: Version = None, cutoff: Cutoff = None, force: Force = False
) -> None:
    """All stages of a day (or of a chunk of days, in one job a stage) in one session."""
    from jobs import audit_tokens, build_user_features, encode_users, publish_tokens, validate_sources
    from jobs.registered_tokenizers import promoted_version

    days, known = days_of(ds, first, last), keys.moment(cutoff) if cutoff else None
    try:
        validate_sources.run(context, days, force=force)
        build_user_features.run(context, days, known, force=force)
        version = tokenizer_version or promoted_version(context)  # once: a promotion between two stages is for the next day
        for stage in (encode_users, audit_tokens, publish_tokens):
            stage.run(context, days, version, force=force)
    finally:
        print_run(context)


@app.command()
@with_spark
def status(
    context: Any,
    ds: Ds = None,
    last: Annotated[str | None, typer.Option("--to", help="Last of the days shown without --ds [default: the newest in the ledger].")] = None,
    format: Annotated[str, typer.Option("--format", help="Of the days: table, or json (an object per day).")] = "table",
) -> None:
    """Where is that day? Sources, stages, published rows and the next step, in one screen; without --ds the last 30 days, a line each."""
    from jobs import show_days, show_status

    if format not in ("table", "json"):
        raise BadInput(f"--format {format}: expected table or json")
    if ds is not None and (last is not None or format != "table"):
        raise BadInput("--ds with --to or --format: expected --ds alone, for one day, or the others without it, for the last 30 days")
    if ds is not None:
        console.print(show_status.render(show_status.run(context, keys.day(ds))))
        return
    lines = show_days.run(context, keys.day(last) if last else None)
    if format == "json":
        sys.stdout.write("".join(f"{line.to_json()}\n" for line in lines))
    elif lines:
        console.print(show_days.render(lines))
    else:
        say(f"{context.lake.root}: the ledger has no day{f' up to {last}' if last else ''}; `u2qt validate --ds D` is the first stage")


@app.command()
@with_spark
def report(
    context: Any,
    ds: Annotated[str, typer.Option("--ds", help="Day, YYYY-MM-DD.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write [default: DS.html].")] = None,
    tokenizer_version: Version = None,
) -> None:
    """Writes the day as one self-contained HTML page."""
    from jobs import write_report

    day = keys.day(ds)
    say(f"{write_report.run(context, day, out or Path(f'{day}.html'), tokenizer_version)}: open it in a browser")
