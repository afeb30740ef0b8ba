"""What every command of `u2qt` shares: its options, the session that it opens, the ledger's rows that it prints."""

import functools
import inspect
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from jobs.errors import BadInput
from schemas import keys
from schemas.catalog_files import load_catalog
from schemas.keys import Days

if TYPE_CHECKING:
    from jobs.context import Context

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

Alone = Literal["no", "where possible", "always"]
AloneFor = Callable[[Mapping[str, Any]], Alone]  # of the command's own options
HEADLINE = ("rows_in", "clean", "quarantined", "duplicates", "user_features", "encoded", "reused", "staged_user_tokens", "user_tokens", "superseded")
console = Console(highlight=False)


def say(text: str) -> None:
    """One line, as it is: not wrapped to the terminal, so that paths can be copied and output parsed."""
    console.print(text, soft_wrap=True, markup=False)


def days_of(ds: str | None, first: str | None, last: str | None) -> Days:
    """The days that --ds, or --from and --to, name."""
    if ds is not None and first is None and last is None:
        return Days(keys.day(ds), keys.day(ds))
    if ds is None and first is not None and last is not None:
        return Days(keys.day(first), keys.day(last))
    raise BadInput("days: expected either --ds D, or both --from D and --to D")


def settings(conf: list[str] | None) -> dict[str, str]:
    """`--conf key=value` pairs."""
    pairs = [item.partition("=") for item in conf or []]
    for key, separator, _ in pairs:
        if not separator:
            raise BadInput(f"--conf {key}: expected key=value")
    return {key: value for key, _, value in pairs}


def with_spark(function: Callable[..., Any], *, alone: Alone | AloneFor = "no") -> Callable[..., Any]:
    """Adds the options that every stage takes, opens the session, holds a lease, and passes the first argument `context`.

    `alone`: whether the command has the lakehouse for itself; `where possible` is everywhere but on an object store. A function
    decides by the options that the command was given.
    """

    @functools.wraps(function)
    def command(*args: Any, root: str, catalog: Path | None, input: str, master: str | None, conf: list[str] | None, run_id: str | None, **kwargs: Any) -> Any:
        from jobs import leases
        from jobs.context import Context
        from jobs.delta_tables import Lakehouse
        from jobs.session import build_session

        declared = load_catalog(catalog)
        name = keys.version(run_id) if run_id else f"run-{uuid.uuid4().hex[:12]}"
        spark = build_session(master, settings(conf))
        try:
            lake = Lakehouse(spark, root)
            wish = alone(kwargs) if callable(alone) else alone
            with leases.held(lake, function.__name__.replace("_", " "), name, exclusive=wish == "always" or (wish == "where possible" and lake.is_local)):
                return function(Context(spark=spark, lake=lake, catalog=declared, input_root=input, run_id=name), *args, **kwargs)
        finally:
            spark.stop()

    common = {
        "root": (Root, "./lakehouse"),
        "catalog": (CatalogDir, None),
        "input": (InputRoot, "./simulated/raw"),
        "master": (Master, None),
        "conf": (Conf, None),
        "run_id": (RunId, None),
    }
    own = [p for p in inspect.signature(function).parameters.values() if p.name != "context"]
    extra = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=a) for n, (a, d) in common.items()]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    command.__signature__ = inspect.Signature([*own, *extra])  # type: ignore[attr-defined]
    return command


def staged(context: "Context", run: Callable[..., None], *args: Any, **options: Any) -> None:
    """Runs one stage and prints what the ledger has of it, whatever its end."""
    try:
        run(context, *args, **options)
    finally:
        print_run(context)


def print_run(context: "Context") -> None:
    """What the ledger has of this run: stage, days, status, rows, seconds."""
    if not context.lake.exists("runs"):
        return
    rows = context.lake.read("runs").where(f"run_id = '{keys.version(context.run_id)}'").orderBy("started_at").collect()
    table = Table(title=f"run {context.run_id}", title_justify="left")
    for name in ("stage", "days", "status", "rows", "seconds"):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    for row in rows:
        shown = "\n".join(f"{name} {row.rows[name]:,}" for name in HEADLINE if name in row.rows) if row.status != "skipped" else "unchanged"
        days = "" if row.ds_from is None else str(row.ds_from) if row.ds_from == row.ds_to else f"{row.ds_from}\n{row.ds_to}"
        table.add_row(row.stage, days, row.status, shown, f"{row.seconds:.1f}")
    if rows:
        console.print(table)
