"""The `u2qt` command. Parses, opens a session, calls one stage; decides nothing itself.

Exit codes: 0 done, 10 a gate refused, 20 bad input, 30 infrastructure; 1 is always a bug.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs import cli_day, cli_evaluate, cli_history, cli_input, cli_maintain, cli_tokenizer_life, cli_tokens
from jobs.cli_options import console
from jobs.errors import BadInput, U2qtError
from schemas.errors import SchemaError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help="User tokens from behaviour, daily, on Spark.")
for part in (cli_input.app, cli_day.app, cli_history.app, cli_maintain.app, cli_tokens.app, cli_evaluate.app):
    app.add_typer(part)
app.add_typer(cli_tokenizer_life.app, name="tokenizer")


@app.command()
def demo(
    users: Annotated[int, typer.Option(help="Number of simulated users.")] = 5000,
    days: Annotated[int, typer.Option(help="Number of simulated days; at least 2.")] = 7,
    out: Annotated[Path, typer.Option(help="Folder for raw input, lakehouse and report; an earlier demo in it is replaced.")] = Path("demo"),
) -> None:
    """The whole job on simulated sources: from raw rows to SQL and a report."""
    from jobs import run_demo

    run_demo.run(out, users=users, days=days, console=console)


def main() -> None:
    """Entry point of the `u2qt` command."""
    raise SystemExit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Runs one command and returns its exit code. Expected errors become one message on standard error."""
    try:
        app(arguments, prog_name="u2qt")
    except SystemExit as end:  # usage errors are printed by typer, with code 2
        code = end.code if isinstance(end.code, int) else 1
        return BadInput.exit_code if code == 2 else code
    except U2qtError as error:
        return _said(error, error.exit_code)
    except Exception as error:
        if not _about_input(error):
            raise
        return _said(error, BadInput.exit_code)
    return 0


def _about_input(error: Exception) -> bool:
    """Whether it is of schemas' or u2qt_model's tree; the latter is looked up, as importing it costs seconds of torch."""
    model_errors = sys.modules.get("u2qt_model.errors")
    return isinstance(error, SchemaError) or (model_errors is not None and isinstance(error, model_errors.ModelError))


def _said(error: Exception, code: int) -> int:
    print(f"u2qt: {error}", file=sys.stderr)
    return code


def submit(command: str) -> None:
    """What `spark-submit jobs/<stage>.py ...` runs: the same command under the same exit codes."""
    raise SystemExit(call([command, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
