"""Errors of the jobs, by exit code. Anything else that reaches the command line is a bug (exit code 1).

U2qtError
├── GateRefused      10  data that did not pass a gate; nothing was published
├── BadInput         20  a file, argument, declaration or checkpoint that can't be used
└── Infrastructure   30  Java, disk, memory, permissions: right input, wrong machine
"""

import sys

from schemas.errors import SchemaError


class U2qtError(Exception):
    """Base; the message names the thing, what was found, what was expected and the way out."""

    exit_code = 1


class GateRefused(U2qtError):
    exit_code = 10


class BadInput(U2qtError):
    exit_code = 20


class Infrastructure(U2qtError):
    exit_code = 30


def is_expected(error: BaseException) -> bool:
    """Whether its text is ours. u2qt_model's tree is looked up: importing it costs seconds of torch."""
    model_errors = sys.modules.get("u2qt_model.errors")
    return isinstance(error, U2qtError | SchemaError) or (model_errors is not None and isinstance(error, model_errors.ModelError))


def error_words(error: BaseException) -> str:
    """What may be kept of it: the text of an expected error, of any other its type alone, for its text could quote a row."""
    return str(error) if is_expected(error) else type(error).__name__


def exit_code(error: BaseException) -> int:
    """What a command that ends with `error` returns. `typer.Exit` brings its own code."""
    if isinstance(error, U2qtError):
        return error.exit_code
    if is_expected(error):
        return BadInput.exit_code
    own = getattr(error, "code", None) if isinstance(error, SystemExit) else getattr(error, "exit_code", None)
    return own if isinstance(own, int) else 1
