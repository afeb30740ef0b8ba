"""The `u2qt` command. Parses, opens a session, calls one stage; decides nothing itself.

Exit codes: 0 done, 10 a gate refused, 20 bad input, 30 infrastructure; 1 is always a bug.
"""

import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from jobs import cli_day, cli_evaluate, cli_forget, cli_history, cli_input, cli_maintain, cli_tokenizer_life, cli_tokens
from jobs.cli_options import checked_place, console, logged
from jobs.endings import as_told, exit_code, is_expected
from schemas.passwords import secrets_in, without_secrets

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help="User tokens from behaviour, daily, on Spark.")
for part in (cli_input.app, cli_day.app, cli_history.app, cli_maintain.app, cli_tokens.app, cli_evaluate.app, cli_forget.app):
    app.add_typer(part)
app.add_typer(cli_tokenizer_life.app, name="tokenizer")


@app.command()
@logged
def demo(
    users: Annotated[int, typer.Option(help="Number of simulated users.")] = 5000,
    days: Annotated[int, typer.Option(help="Number of simulated days; at least 2.")] = 7,
    out: Annotated[Path, typer.Option(help="Folder for raw input, lakehouse and report; an earlier demo in it is replaced.")] = Path("demo"),
) -> None:
    """The whole job on simulated sources: from raw rows to SQL and a report."""
    from jobs import lineage, run_demo

    checked_place("--out", str(out))
    with lineage.reported():
        run_demo.run(out, users=users, days=days, console=console)


def main() -> None:
    """Entry point of the `u2qt` command."""
    raise SystemExit(_ended(sys.argv[1:]))


def _ended(arguments: list[str]) -> int:
    """The exit code; what no one expected is a bug and is shown whole, without secrets."""
    try:
        return call(arguments)
    except Exception:
        sys.stderr.write(without_secrets(traceback.format_exc(), secrets_in(arguments)))
        return 1


def call(arguments: list[str]) -> int:
    """Runs one command and returns its exit code. Expected errors become one message on standard error."""
    logging.getLogger().addFilter(_not_of_py4j)  # the same function again and again is one filter
    try:
        app(arguments, prog_name="u2qt")
    except SystemExit as end:  # usage errors are printed by typer
        return exit_code(end)
    except Exception as error:
        told = as_told(error)
        if not is_expected(told):
            raise
        print(f"u2qt: {without_secrets(str(told), secrets_in(arguments))}", file=sys.stderr)
        return exit_code(told)
    return 0


def _not_of_py4j(record: logging.LogRecord) -> bool:
    """py4j tells the root logger, with a traceback, of a Java that has ended; our error says it too, with the way out."""
    return "py4j" not in Path(record.pathname).parts


def submit(command: str) -> None:
    """What `spark-submit jobs/<stage>.py ...` runs: the same command under the same exit codes."""
    raise SystemExit(_ended([command, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
