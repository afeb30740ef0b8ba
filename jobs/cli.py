"""The `u2qt` command. Parses, opens a session, calls one stage; decides nothing itself.

Exit codes: 0 done, 10 a gate refused, 20 bad input, 30 infrastructure; 1 is always a bug.
"""

import functools
import inspect
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.errors import BadInput, U2qtError
from schemas import keys
from schemas.catalog import Catalog
from schemas.catalog_files import load_catalog
from schemas.errors import SchemaError
from schemas.keys import Days

Root = Annotated[str, typer.Option("--root", envvar="U2QT_ROOT", help="Folder or URI of the lakehouse.")]
CatalogDir = Annotated[Path | None, typer.Option("--catalog", envvar="U2QT_CATALOG", help="Catalog folder [default: the packaged six sources].")]
InputRoot = Annotated[str, typer.Option("--input", envvar="U2QT_INPUT", help="Where relative input paths of the catalog start.")]
Master = Annotated[str | None, typer.Option("--master", help="Spark master [default: local[*], or spark-submit's].")]
Conf = Annotated[list[str] | None, typer.Option("--conf", help="Any Spark setting, key=value; repeatable.")]
RunId = Annotated[str | None, typer.Option("--run-id", help="Name of this run in the ledger [default: made up].")]
Ds = Annotated[str | None, typer.Option("--ds", help="Day, YYYY-MM-DD.")]
From = Annotated[str | None, typer.Option("--from", help="First day of a range.")]
To = Annotated[str | None, typer.Option("--to", help="Last day of a range.")]
Version = Annotated[str | None, typer.Option("--tokenizer-version", help="Tokenizer version [default: the promoted one].")]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="User tokens from behaviour, daily, on Spark.")
catalog_app = typer.Typer(no_args_is_help=True, help="Check and show source declarations.")
tokenizer_app = typer.Typer(no_args_is_help=True, help="Registered tokenizers.")
quarantine_app = typer.Typer(no_args_is_help=True, help="Rows that validation refused.")
import_app = typer.Typer(no_args_is_help=True, help="Bring real data into raw input.")
app.add_typer(catalog_app, name="catalog")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(import_app, name="import")
console = Console()


def days_of(ds: str | None, first: str | None, last: str | None) -> Days:
    """The days that --ds, or --from and --to, name."""
    if ds is not None and first is None and last is None:
        return Days(keys.day(ds), keys.day(ds))
    if ds is None and first is not None and last is not None:
        return Days(keys.day(first), keys.day(last))
    raise BadInput("days: expected either --ds D, or both --from D and --to D")


def settings(conf: list[str] | None) -> dict[str, str]:
    pairs = [item.partition("=") for item in conf or []]
    for key, separator, _ in pairs:
        if not separator:
            raise BadInput(f"--conf {key}: expected key=value")
    return {key: value for key, _, value in pairs}


def with_spark(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that every stage takes, opens the session, and passes the first argument `context`."""

    @functools.wraps(function)
    def command(
        *args: Any, root: str, catalog: Path | None, input: str, master: str | None, conf: list[str] | None, run_id: str | None, **kwargs: Any
    ) -> Any:
        from jobs.context import Context
        from jobs.delta_tables import Lakehouse
        from jobs.session import build_session

        declared = load_catalog(catalog)
        name = keys.version(run_id) if run_id else f"run-{uuid.uuid4().hex[:12]}"
        spark = build_session(master, settings(conf))
        try:
            lake = Lakehouse(spark, root)
            return function(Context(spark=spark, lake=lake, catalog=declared, input_root=input, run_id=name), *args, **kwargs)
        finally:
            spark.stop()

    common = {
        "root": (Root, "./lakehouse"),
        "catalog": (CatalogDir, None),
        "input": (InputRoot, "./raw"),
        "master": (Master, None),
        "conf": (Conf, None),
        "run_id": (RunId, None),
    }
    own = [p for p in inspect.signature(function).parameters.values() if p.name != "context"]
    extra = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=a) for n, (a, d) in common.items()]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    command.__signature__ = inspect.Signature([*own, *extra])  # type: ignore[attr-defined]
    return command


@app.command()
def doctor() -> None:
    """Checks Java, memory, versions, torch and GPU, and names the remedy for what is wrong."""
    from jobs.check_machine import render, run

    found = run()
    console.print(render(found))
    if any(not check.ok for check in found):
        raise typer.Exit(30)


@app.command()
@with_spark
def init(context: Any) -> None:
    """Creates the lakehouse's tables."""
    from jobs import init_lakehouse

    made = init_lakehouse.run(context)
    console.print(f"{context.lake.root}: {made['created']} tables created, {made['existing']} were there (catalog {context.catalog.name})")


@app.command()
@with_spark
def validate(context: Any, ds: Ds = None, first: From = None, last: To = None) -> None:
    """Raw deliveries -> clean rows, quarantine, counted duplicates."""
    from jobs import validate_sources

    _staged(context, validate_sources.run, days_of(ds, first, last))


@app.command()
@with_spark
def build(
    context: Any,
    ds: Ds = None,
    first: From = None,
    last: To = None,
    cutoff: Annotated[str | None, typer.Option("--cutoff", help="Moment, ISO 8601 with offset, up to which rows may know.")] = None,
) -> None:
    """Clean rows -> one feature row per active user and day."""
    from jobs import build_user_features

    _staged(context, build_user_features.run, days_of(ds, first, last), keys.moment(cutoff) if cutoff else None)


@app.command()
@with_spark
def encode(context: Any, ds: Ds = None, first: From = None, last: To = None, tokenizer_version: Version = None) -> None:
    """Feature rows -> staged codes."""
    from jobs import encode_users

    _staged(context, encode_users.run, days_of(ds, first, last), tokenizer_version)


@app.command()
@with_spark
def audit(context: Any, ds: Ds = None, first: From = None, last: To = None, tokenizer_version: Version = None) -> None:
    """Evaluates the gate on the staged codes."""
    from jobs import audit_tokens

    _staged(context, audit_tokens.run, days_of(ds, first, last), tokenizer_version)


@app.command()
@with_spark
def publish(context: Any, ds: Ds = None, first: From = None, last: To = None, tokenizer_version: Version = None) -> None:
    """Audited codes -> user_tokens, in one commit."""
    from jobs import publish_tokens

    _staged(context, publish_tokens.run, days_of(ds, first, last), tokenizer_version)


@app.command("run-day")
@with_spark
def run_day(context: Any, ds: Ds = None, first: From = None, last: To = None, tokenizer_version: Version = None) -> None:
    """All stages of a day (or of a chunk of days, in one job a stage) in one session."""
    from jobs import audit_tokens, build_user_features, encode_users, publish_tokens, validate_sources

    days = days_of(ds, first, last)
    try:
        validate_sources.run(context, days)
        build_user_features.run(context, days)
        for stage in (encode_users, audit_tokens, publish_tokens):
            stage.run(context, days, tokenizer_version)
    finally:
        _print_run(context)


def _staged(context: Any, run: Callable[..., None], *args: Any) -> None:
    try:
        run(context, *args)
    finally:
        _print_run(context)


HEADLINE = ("rows_in", "clean", "quarantined", "duplicates", "user_features", "staged_user_tokens", "user_tokens", "superseded")


def _print_run(context: Any) -> None:
    """What the ledger has of this run."""
    if not context.lake.exists("runs"):
        return
    rows = context.lake.read("runs").where(f"run_id = '{keys.version(context.run_id)}'").orderBy("started_at").collect()
    table = Table(title=f"run {context.run_id}", title_justify="left")
    for name in ("stage", "days", "status", "rows", "seconds"):
        table.add_column(name, justify="right" if name == "seconds" else "left")
    for row in rows:
        shown = ", ".join(f"{name} {row.rows[name]:,}" for name in HEADLINE if name in row.rows)
        table.add_row(row.stage, f"{row.ds_from} to {row.ds_to}", row.status, shown, f"{row.seconds:.1f}")
    if rows:
        console.print(table)


@app.command()
@with_spark
def train(
    context: Any,
    first: Annotated[str, typer.Option("--from", help="First day to train on.")],
    last: Annotated[str, typer.Option("--to", help="Last day to train on; labels up to it would leak.")],
    tokenizer_version: Annotated[str, typer.Option("--tokenizer-version", help="Name of the new version.")],
    quantizer: Annotated[str, typer.Option(help="residual or rq_kmeans.")] = "residual",
    size: Annotated[str, typer.Option(help="tiny, demo or base.")] = "base",
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same fingerprint on one machine.")] = 0,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of checkpoints [default: in the lakehouse].")] = None,
) -> None:
    """Learns a tokenizer from feature rows and registers it."""
    from jobs import train_tokenizer
    from jobs.training_progress import on_terminal
    from u2qt_model import presets

    sizes = {"tiny": presets.tiny, "demo": presets.demo, "base": presets.base}
    if size not in sizes:
        raise BadInput(f"--size {size}: expected one of {', '.join(sizes)}")
    config = sizes[size](seed=seed, quantizer=quantizer)
    with on_terminal(console) as progress:
        made = train_tokenizer.run(context, days_of(None, first, last), tokenizer_version, config, checkpoints=checkpoints, progress=progress)
    console.print(f"tokenizer {made.version}: fingerprint {made.fingerprint[:16]}, checkpoint {made.checkpoint}")
    _print_run(context)


@tokenizer_app.command("show")
@with_spark
def tokenizer_show(context: Any, version: Annotated[str, typer.Argument(help="Registered version.")]) -> None:
    """Layout, fingerprint and quality of a registered tokenizer."""
    from jobs.registered_tokenizers import find_registered, load_registered
    from jobs.show_tokenizer import render

    registered = find_registered(context, version)
    load_registered(registered, context.catalog)
    console.print(render(registered))


@tokenizer_app.command("list")
@with_spark
def tokenizer_list(context: Any) -> None:
    """Every registered tokenizer; the promoted one is marked."""
    from jobs.registered_tokenizers import all_registered, promoted_version
    from jobs.show_tokenizer import render_list

    console.print(render_list(all_registered(context), promoted_version(context)))


@tokenizer_app.command("promote")
@with_spark
def tokenizer_promote(
    context: Any,
    version: Annotated[str, typer.Argument(help="Registered version.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the promotions table.")] = "",
) -> None:
    """Makes a version the one that user_tokens_current shows."""
    from jobs import promote_tokenizer

    console.print(promote_tokenizer.run(context, version, reason))


@catalog_app.command("check")
def catalog_check(folder: Annotated[Path, typer.Argument(help="Catalog folder.")]) -> None:
    """Says what is wrong with a catalog: file, field, found, expected."""
    from jobs.show_catalog import checked

    catalog = checked(folder)
    console.print(f"{folder}: catalog {catalog.name} is right, {len(catalog.sources)} sources")


@catalog_app.command("show")
def catalog_show(folder: Annotated[Path | None, typer.Argument(help="Catalog folder [default: the packaged six].")] = None) -> None:
    """Prints a catalog's sources and columns as tables."""
    from jobs.show_catalog import checked, render

    catalog: Catalog = checked(folder)
    for table in render(catalog):
        console.print(table)


def main() -> None:
    """Entry point of the `u2qt` command."""
    raise SystemExit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Runs one command and returns its exit code. Expected errors become one message on standard error."""
    from u2qt_model.errors import ModelError

    try:
        result = typer.main.get_command(app)(arguments, prog_name="u2qt", standalone_mode=False)
    except U2qtError as error:
        return _said(error, error.exit_code)
    except (SchemaError, ModelError) as error:
        return _said(error, BadInput.exit_code)
    except Exception as error:
        return _usage_or_raise(error)
    return result if isinstance(result, int) else 0


def _usage_or_raise(error: Exception) -> int:
    import click

    if isinstance(error, click.exceptions.Exit):
        return int(error.exit_code)
    if isinstance(error, click.ClickException):
        error.show()
        return BadInput.exit_code
    if isinstance(error, click.Abort):
        return 130
    raise error


def _said(error: Exception, code: int) -> int:
    print(f"u2qt: {error}", file=sys.stderr)
    return code


def submit(command: str) -> None:
    """What `spark-submit jobs/<stage>.py ...` runs: the same command under the same exit codes."""
    raise SystemExit(call([command, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
