"""The command that removes users: it has the lakehouse for itself."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from jobs.cli_options import console, print_run, say, with_spark

app = typer.Typer()


@app.command()
@partial(with_spark, alone="always")
def forget(
    context: Any,
    users: Annotated[Path, typer.Option("--users", help="Ids: .txt with one a line, or .csv or .parquet with a column user_id.")],
    certificate: Annotated[Path | None, typer.Option("--certificate", help="File for the certificate [default: forget-RUN.json in this folder].")] = None,
    checkpoints: Annotated[Path | None, typer.Option("--checkpoints", help="A further folder of checkpoints, to remove states of trainings from.")] = None,
    reports: Annotated[Path | None, typer.Option("--reports", help="Folder whose reports DS.html of touched days are removed.")] = None,
) -> None:
    """Removes users from every table, version and file, and refuses their rows from then on."""
    from jobs import forget_users

    out = certificate or Path(f"forget-{context.run_id}.json")
    try:
        made = forget_users.run(context, users, out, checkpoints=checkpoints, reports=reports)
    finally:
        print_run(context)
    table = Table("table", "rows removed", "files rewritten", "old files deleted", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, removed in made.tables.items():
        if removed.rows or removed.files_deleted:
            table.add_row(name, f"{removed.rows:,}", f"{removed.files_rewritten:,}", f"{removed.files_deleted:,}")
    console.print(table)
    say(f"{made.asked:,} users asked for, {made.found:,} found, {made.newly_forgotten:,} for the first time: {made.rows:,} rows removed")
    say(f"certificate {made.certificate_id}: {out}")
    if made.not_tables:
        say(f"not looked into, in the lakehouse's folder: {', '.join(made.not_tables)}")
    for line in made.not_covered:
        say(f"not covered: {line}")
