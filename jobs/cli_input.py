"""Commands around raw input: catalogs, simulation, imports, quarantine, the machine itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli_options import MOST_ROWS, Conf, Master, checked_place, console, logged, say, settings, with_spark
from schemas import keys
from schemas.catalog import Catalog

app = typer.Typer()
catalog_app = typer.Typer(no_args_is_help=True, help="Check and show source declarations.")
quarantine_app = typer.Typer(no_args_is_help=True, help="Rows that validation refused.")
import_app = typer.Typer(no_args_is_help=True, help="Bring real data into raw input.")
app.add_typer(catalog_app, name="catalog")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(import_app, name="import")


@app.command()
@logged
def doctor(
    root: Annotated[str | None, typer.Option("--root", envvar="U2QT_ROOT", help="Lakehouse: may several drivers commit to it at once?")] = None,
    conf: Conf = None,
) -> None:
    """Checks Java, memory, versions, torch, GPU and the lakehouse's log store, and names the remedy for what is wrong."""
    from jobs.check_machine import render, run

    found = run(root, settings(conf))
    console.print(render(found))
    if any(not check.ok for check in found):
        raise typer.Exit(30)


@app.command()
@logged
def simulate(
    users: Annotated[int, typer.Option(help="Number of users.")] = 5000,
    days: Annotated[int, typer.Option(help="Days of behaviour.")] = 7,
    seed: Annotated[int, typer.Option(help="The same seed gives the same rows.")] = 1,
    start: Annotated[str, typer.Option(help="First day, YYYY-MM-DD.")] = "2024-01-01",
    dirt: Annotated[float, typer.Option(help="Share of rows to spoil; OUT/truth/planted says how.")] = 0.0,
    late: Annotated[float, typer.Option(help="Share of events delivered a day later.")] = 0.02,
    out: Annotated[Path, typer.Option(help="Folder for raw/, labels/ and truth/.")] = Path("simulated"),
    master: Master = None,
    conf: Conf = None,
) -> None:
    """Makes the six default sources: OUT/raw is what --input wants."""
    from jobs import simulate_sources
    from jobs.session import build_session

    first = keys.day(start)
    checked_place("--out", str(out))
    spark = build_session(master, settings(conf))
    try:
        rows = simulate_sources.run(spark, out=out, users=users, days=days, seed=seed, start=first, dirt=dirt, late=late)
    finally:
        spark.stop()
    say(f"{out}: {sum(rows.values()):,} raw rows (" + ", ".join(f"{name} {count:,}" for name, count in rows.items()) + ")")


@catalog_app.command("check")
@logged
def catalog_check(folder: Annotated[Path, typer.Argument(help="Catalog folder.")]) -> None:
    """Says what is wrong with a catalog: file, field, found, expected."""
    from jobs.show_catalog import checked

    checked_place("catalog", str(folder))
    catalog = checked(folder)
    say(f"{folder}: catalog {catalog.name} is right, {len(catalog.sources)} sources")


@catalog_app.command("show")
@logged
def catalog_show(folder: Annotated[Path | None, typer.Argument(help="Catalog folder [default: the packaged six].")] = None) -> None:
    """Prints a catalog's sources and columns as tables."""
    from jobs.show_catalog import checked, render

    if folder is not None:
        checked_place("catalog", str(folder))
    catalog: Catalog = checked(folder)
    for table in render(catalog):
        console.print(table)


@import_app.callback()
def _keeps_the_second_word() -> None:
    """Without a callback typer folds a group of one command into that command."""


@import_app.command("stackexchange")
@logged
def import_stackexchange(
    dump: Annotated[Path, typer.Argument(metavar="DUMP_DIR", help="Folder with the dump's XML files.")],
    out: Annotated[Path, typer.Option(help="New folder for the raw input; give it as --input.")] = Path("stackexchange/raw"),
) -> None:
    """A Stack Exchange dump -> raw input for the catalog in examples/stackexchange."""
    from jobs import import_stackexchange as stage

    checked_place("DUMP_DIR", str(dump))
    checked_place("--out", str(out))
    for line in stage.run(dump, out).lines():
        say(line)


@quarantine_app.command("show")
@with_spark
def quarantine_show(
    context: Any,
    delivered_ds: Annotated[str, typer.Option("--delivered-ds", help="Day of delivery, YYYY-MM-DD.")],
    source: Annotated[str | None, typer.Option("--source", help="One source [default: all].")] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, max=MOST_ROWS, help="Raw rows to print per source; they are users' data.")] = 0,
) -> None:
    """Deliveries of a day, with how many rows were refused for which reason."""
    from jobs.show_quarantine import render, run

    for table in render(run(context, keys.day(delivered_ds), source, rows)):
        console.print(table)


@quarantine_app.command("replay")
@with_spark
def quarantine_replay(context: Any, delivery: Annotated[str, typer.Option("--delivery", help="delivery_id, as `quarantine show` lists it.")]) -> None:
    """Validates a delivery's refused rows again, after the declaration was mended."""
    from jobs import replay_quarantine

    done = replay_quarantine.run(context, delivery)
    say(f"delivery {delivery}: {done['released']:,} rows released, {done['refused']:,} still refused; build the days they belong to again")
