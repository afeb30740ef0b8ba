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
    users: Annotated[Path, typer.Option("--users", help="Text file, one user id a line.")],
    certificate: Annotated[Path | None, typer.Option("--certificate", help="File for the certificate [default: forget-RUN.json in this folder].")] = None,
) -> None:
    """Removes users from every table, version and file, and refuses their rows from then on."""
    from jobs import forget_users

    out = certificate or Path(f"forget-{context.run_id}.json")
    try:
        made = forget_users.run(context, users, out)
    finally:
        print_run(context)
    table = Table("table", "rows removed", "days written anew", "old files deleted", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, files in made.files_deleted.items():
        if made.rows.get(name) or files:
            table.add_row(name, f"{made.rows.get(name, 0):,}", f"{made.days.get(name, 0):,}", f"{files:,}")
    console.print(table)
    say(f"{made.asked} users asked for, {made.newly_forgotten} of them for the first time, {sum(made.rows.values()):,} rows removed; certificate: {out}")
    say("Not covered: " + "; ".join(made.not_covered))
