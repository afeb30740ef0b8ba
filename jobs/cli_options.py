"""What every command of `u2qt` shares: its options, the session that it opens, the ledger's rows that it prints."""

import functools
import inspect
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from jobs.errors import BadInput
from schemas import keys
from schemas.catalog_files import load_catalog
from schemas.keys import Days
from schemas.passwords import has_password, secrets_in, without_secrets

if TYPE_CHECKING:
    from pyspark.sql import Row

    from jobs.context import Context

Root = Annotated[str, typer.Option("--root", envvar="U2QT_ROOT", help="Folder or URI of the lakehouse.")]
CatalogDir = Annotated[Path | None, typer.Option("--catalog", envvar="U2QT_CATALOG", help="Catalog folder [default: the packaged six sources].")]
InputRoot = Annotated[str, typer.Option("--input", envvar="U2QT_INPUT", help="Where relative input paths of the catalog start.")]
Master = Annotated[str | None, typer.Option("--master", help="Spark master [default: local[*], or spark-submit's].")]
Conf = Annotated[list[str] | None, typer.Option("--conf", help="Any Spark setting, key=value; repeatable.")]
ForgetKey = Annotated[str | None, typer.Option("--key-file", envvar="U2QT_FORGET_KEY", help="File with the key of forgotten ids, once somebody was forgotten.")]
RunId = Annotated[str | None, typer.Option("--run-id", help="Name of this run in the ledger [default: made up].")]
Log = Annotated[str | None, typer.Option("--log", envvar="U2QT_LOG", help="File to append events to, a JSON line each; - is standard error.")]
Ds = Annotated[str | None, typer.Option("--ds", help="Day, YYYY-MM-DD.")]
From = Annotated[str | None, typer.Option("--from", help="First day of a range.")]
To = Annotated[str | None, typer.Option("--to", help="Last day of a range.")]
Version = Annotated[str | None, typer.Option("--tokenizer-version", help="Tokenizer version [default: the promoted one].")]

MOST_ROWS = 1_000_000_000  # to print: more than a person reads, and what Spark can count to
Alone = Literal["no", "where possible", "always"]
AloneFor = Callable[[Mapping[str, Any]], Alone]  # of the command's own options
HEADLINE = (
    "rows_in",
    "clean",
    "quarantined",
    "duplicates",
    "forgotten",
    "user_features",
    "encoded",
    "reused",
    "staged_user_tokens",
    "user_tokens",
    "superseded",
)
PLACES = {"root", "input", "catalog", "labels", "out", "checkpoints", "checkpoint", "tokenizer", "base", "job", "text_model", "log"}  # options
PLACES |= {"users", "certificate", "reports", "key_file"}
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, as Linux has them
LONGEST_RANGE = 3660  # days: each has its lock and its rows in the ledger
SETTING_START = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)
SETTING = re.compile(r"[A-Za-z0-9._-]+\Z", re.ASCII)
console = Console(highlight=False, markup=False)  # what is printed comes from outside: [/x] is text


def say(text: str) -> None:
    """One line, as it is: not wrapped to the terminal, so that paths can be copied and output parsed."""
    console.print(text, soft_wrap=True, markup=False)


def write_pieces(pieces: Iterable[str]) -> None:
    """To standard output, until there are no more or its reader (`| head`) has had enough: that is no error."""
    try:
        for piece in pieces:
            sys.stdout.write(piece)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere when Python ends


def days_of(ds: str | None, first: str | None, last: str | None) -> Days:
    """The days that --ds, or --from and --to, name."""
    if ds is not None and first is None and last is None:
        return Days(keys.day(ds), keys.day(ds))
    if ds is None and first is not None and last is not None:
        days = Days(keys.day(first), keys.day(last))
        if len(days) > LONGEST_RANGE:
            raise BadInput(f"--from {first} --to {last}: found {len(days):,} days, expected at most {LONGEST_RANGE:,}; give several ranges")
        return days
    raise BadInput("days: expected either --ds D, or both --from D and --to D")


def settings(conf: list[str] | None) -> dict[str, str]:
    """`--conf key=value` pairs."""
    pairs = [item.partition("=") for item in conf or []]
    for key, separator, _ in pairs:
        if not SETTING.match(key):  # what follows a wrong character may be a secret
            raise BadInput(f"--conf {key[: SETTING_START.match(key).end()]!r}...: expected key=value, the key of letters, digits, '.', '_' and '-'")  # type: ignore[union-attr]
        if not separator:
            raise BadInput(f"--conf {key}: expected key=value")
    return {key: value for key, _, value in pairs}


def checked_place(option: str, place: str) -> str:
    """A folder, file or URI given by a person, as it is. `BadInput` where it can't be one, or holds a password."""
    if has_password(place):
        raise BadInput(
            f"{option} {without_secrets(place)}: found a password in it, expected none, because places are logged and recorded; "
            "give it by Spark's settings or the platform's credentials (docs/security.md)"
        )
    shown = place if len(place) <= 80 else f"{place[:77]}..."
    if not place or not place.isprintable():
        raise BadInput(f"{option} {shown!r}: found {'nothing' if not place else 'control or unprintable characters'}, expected a folder, file or URI")
    if max(len(part.encode()) for part in place.split("/")) > LONGEST_NAME or len(place.encode()) > LONGEST_PATH:
        raise BadInput(f"{option} {shown!r}: found {len(place):,} characters, expected a path of at most {LONGEST_PATH}, and {LONGEST_NAME} between slashes")
    return place


def _checked_places(options: dict[str, Any]) -> None:
    """Every value of an option that names a place."""
    for name in PLACES & options.keys():
        if options[name] is not None:
            checked_place(f"--{name.replace('_', '-')}", str(options[name]))


def with_spark(function: Callable[..., Any], *, alone: Alone | AloneFor = "no") -> Callable[..., Any]:
    """Adds the options that every stage takes, opens the session, holds a lease, and passes the first argument `context`.

    `alone`: whether the command has the lakehouse for itself; `where possible` is everywhere but on an object store. A function
    decides by the options that the command was given.
    """

    @functools.wraps(function)
    def command(
        *args: Any,
        root: str,
        catalog: Path | None,
        input: str,
        master: str | None,
        conf: list[str] | None,
        run_id: str | None,
        key_file: str | None,
        **kwargs: Any,
    ) -> Any:
        from jobs import event_log, leases, ledger, lineage, machine_faults
        from jobs.context import Context
        from jobs.delta_tables import Lakehouse
        from jobs.session import build_session

        _checked_places({"root": root, "input": input, "catalog": catalog, "key_file": key_file, **kwargs})
        purpose = _purpose(function)
        name = keys.version(run_id) if run_id else f"run-{uuid.uuid4().hex[:12]}"
        with event_log.written_to(kwargs.pop("log")), event_log.command(purpose, name, secrets_in(conf or [])), lineage.reported():
            declared = load_catalog(catalog)
            spark = build_session(master, settings(conf))
            try:
                lake = Lakehouse(spark, root)
                wish = alone(kwargs) if callable(alone) else alone
                exclusive = wish == "always" or (wish == "where possible" and lake.is_local)
                context = Context(spark=spark, lake=lake, catalog=declared, input_root=input, run_id=name, forget_key=key_file)
                with machine_faults.told(lambda: ledger.room(context)), leases.held(lake, purpose, name, exclusive=exclusive):
                    return function(context, *args, **kwargs)
            finally:
                spark.stop()

    common = {
        "root": (Root, "./lakehouse"),
        "catalog": (CatalogDir, None),
        "input": (InputRoot, "./simulated/raw"),
        "master": (Master, None),
        "conf": (Conf, None),
        "run_id": (RunId, None),
        "key_file": (ForgetKey, None),
        "log": (Log, None),
    }
    return _with_options(command, function, common)


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--log` to a command that is no run of the lakehouse: it has no run id, its start and end are logged all the same."""

    @functools.wraps(function)
    def command(*, log: str | None, **kwargs: Any) -> Any:
        from jobs import event_log

        _checked_places({"log": log, **kwargs})
        with event_log.written_to(log), event_log.command(_purpose(function), None, secrets_in(kwargs.get("conf") or [])):
            return function(**kwargs)

    return _with_options(command, function, {"log": (Log, None)})


def _purpose(function: Callable[..., Any]) -> str:
    """The command's words: `run day`, `quarantine show`."""
    return function.__name__.replace("_", " ")


def _with_options(command: Callable[..., Any], function: Callable[..., Any], options: dict[str, tuple[Any, Any]]) -> Callable[..., Any]:
    """`command` with the options of `function` and these, as typer reads them."""
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(function).parameters.values() if p.name != "context"]
    extra = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=a) for n, (a, d) in options.items()]
    command.__signature__ = inspect.Signature([*own, *extra])  # type: ignore[attr-defined]
    return command


def staged(context: "Context", run: Callable[..., None], *args: Any, **options: Any) -> None:
    """Runs one stage and prints what the ledger has of it, whatever its end."""
    try:
        run(context, *args, **options)
    finally:
        print_run(context)


def print_run(context: "Context", *others: str) -> None:
    """What the ledger has of this run, and of `others` by their ids: stage, days, status, rows, seconds."""
    if not context.lake.exists("runs"):
        return
    runs = context.lake.read("runs")
    rows = runs.where(runs["run_id"].isin(context.run_id, *others)).orderBy("started_at").collect()
    table = Table(title=f"run {context.run_id}", title_justify="left")
    for name in ("stage", "days", "status", "rows", "seconds"):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    for row in rows:
        shown = "\n".join(f"{name} {row.rows[name]:,}" for name in HEADLINE if name in row.rows) if row.status != "skipped" else "unchanged"
        days = "" if row.ds_from is None else str(row.ds_from) if row.ds_from == row.ds_to else f"{row.ds_from}\n{row.ds_to}"
        table.add_row(row.stage, days, row.status, shown, f"{row.seconds:.1f}")
    if not rows:
        return
    console.print(table)
    for line in dict.fromkeys(line for row in rows if (line := saved_text(row))):
        say(line)


def saved_text(row: "Row") -> str:
    """What a ledger row says of work that was not done again: why a stage was skipped, whose codes were kept; else empty."""
    where = f"{row.stage}, {row.ds_from}" + ("" if row.ds_from == row.ds_to else f" to {row.ds_to}")
    if row.status == "skipped":
        return f"{where}: skipped, {json.loads(row.detail)['skipped']} (--force works all the same)"
    if row.status == "done" and "reused" in row.rows:
        share = row.rows["reused"] / row.rows["user_features"]
        return f"{where}: encoded {row.rows['encoded']:,} of {row.rows['user_features']:,} users, {share:.1%} reused"
    return ""
