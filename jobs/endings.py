"""How a command or a stage ends: its exit code, and the words of its error that may be kept.

The command line, the ledger and the event log go by the same answers.
"""

import re
import sys
from collections.abc import Iterable

from jobs.errors import BadInput, U2qtError
from jobs.machine_faults import infrastructure_of
from schemas.errors import SchemaError
from schemas.passwords import without_secrets

USAGE = 2  # typer's exit code for wrong arguments
INTERRUPTED = 130  # Ctrl-C, as shells have it
MODEL_ERROR = re.compile(r"^(?:Caused by: .*?)?u2qt_model\.errors\.\w+: (.+)$", re.MULTILINE)


def as_told(error: BaseException) -> BaseException:
    """The machine's fault where it is one, an expected error that came from a worker, else the error itself."""
    return infrastructure_of(error) or model_error_of_a_worker(error) or error


def model_error_of_a_worker(error: BaseException) -> BadInput | None:
    """An error of the model package that a Python worker raised: Spark hands it on as text. By name: pyspark is slow to import."""
    if type(error).__module__.partition(".")[0] not in ("pyspark", "py4j"):
        return None
    found = MODEL_ERROR.search(str(error))
    return BadInput(found[1]) if found else None


def is_expected(error: BaseException) -> bool:
    """Whether its text is ours. u2qt_model's tree is looked up: importing it costs seconds of torch."""
    model_errors = sys.modules.get("u2qt_model.errors")
    return isinstance(error, U2qtError | SchemaError) or (model_errors is not None and isinstance(error, model_errors.ModelError))


def words_of(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """The text of an expected error without secrets; of any other its type alone, for its text could quote a row."""
    return without_secrets(getattr(error, "kept", None) or str(error), secrets) if is_expected(error) else type(error).__name__


def exit_code(error: BaseException) -> int:
    """What a command that ends with `error` returns; 1 is a bug. Exits that name a code keep it, but for wrong arguments."""
    if isinstance(error, U2qtError):
        return error.exit_code
    if is_expected(error):
        return BadInput.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    named = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
    code = 0 if named is None else named if isinstance(named, int) else 1
    return BadInput.exit_code if code == USAGE else code
