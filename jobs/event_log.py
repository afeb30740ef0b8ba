"""The structured log: one JSON line per event, for machines that watch. Never holds user content.

Events go to Python's logger `u2qt`, beside its plain warnings. Without a handler (no `--log`, no logging of the caller's own)
they go nowhere. Facts are names, days, counts, seconds and the texts of expected errors; of an unexpected one its type alone.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from jobs.endings import as_told, exit_code, words_of
from jobs.errors import GateRefused, Infrastructure
from schemas.keys import Days

LOG = logging.getLogger("u2qt")
FACTS = "u2qt_facts"  # attribute of the log records that are events
LEVELS = {"refused": logging.WARNING, "failed": logging.ERROR}  # the others are information


class JsonLines(logging.Formatter):
    """An event with its facts, or a plain message as `message`. No traceback: it could quote a row. ASCII, so that no outside text can speak to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, FACTS, None)
        head = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"), "level": record.levelname.lower()}
        body = {"event": record.getMessage(), **facts} if facts is not None else {"event": "message", "message": record.getMessage()}
        return json.dumps(head | body, default=str)


class AppendedFile(logging.Handler):
    """Appends each line by one write, so that several processes may share the file (a local one)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None  # before the base class registers us to be closed when Python ends
        super().__init__()
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        except OSError as error:
            reason = f"can't be written ({error.strerror}), expected a file in a folder that this user may write, or - for standard error"
            raise Infrastructure(f"--log {path}: {reason}") from None

    def emit(self, record: logging.LogRecord) -> None:
        """A log that can't be written any more is said once and ends; the work goes on."""
        if self._file is None:
            return
        line = (self.format(record) + "\n").encode("ascii")
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(28, f"wrote {written} of {len(line)} bytes")
        except OSError as error:
            self.close()
            sys.stderr.write(f"u2qt: --log {self.path}: can't be written any more ({error.strerror}); no further events are logged by this command\n")

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        super().close()


@contextmanager
def written_to(target: str | None) -> Iterator[None]:
    """Events go to the file `target`, or to standard error for `-`, until the block ends; nowhere without one.

    With a file, plain warnings are still said on standard error, where people look.
    """
    if not target:
        yield
        return
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr) if target == "-" else AppendedFile(Path(target))]
    handlers[0].setFormatter(JsonLines())
    if target != "-":
        plain = logging.StreamHandler(sys.stderr)
        plain.setLevel(logging.WARNING)
        plain.addFilter(lambda record: not hasattr(record, FACTS))
        handlers.append(plain)
    level, propagate = LOG.level, LOG.propagate
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    for handler in handlers:
        LOG.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
        LOG.setLevel(level)
        LOG.propagate = propagate


def say(event: str, facts: Mapping[str, object], level: int = logging.INFO) -> None:
    """One event; facts that are None are left out."""
    if LOG.hasHandlers():  # else Python's handler of last resort would print bare words
        LOG.log(level, event, extra={FACTS: {name: fact for name, fact in facts.items() if fact is not None}})


@contextmanager
def command(name: str, run_id: str | None, secrets: Sequence[str] = ()) -> Iterator[None]:
    """`command_started`, then `command_ended` with the exit code that the command line will return and the seconds.

    `secrets`: texts that no error's words may hold.
    """
    named = {"command": name, "run_id": run_id}
    say("command_started", named)
    code, words, clock = 0, None, time.perf_counter()
    try:
        yield
    except BaseException as error:
        told = as_told(error)
        code = exit_code(told)
        words = words_of(told, secrets) if code else None
        raise
    finally:
        level = {0: logging.INFO, GateRefused.exit_code: logging.WARNING}.get(code, logging.ERROR)
        say("command_ended", named | {"exit_code": code, "seconds": round(time.perf_counter() - clock, 3), "error": words}, level)


def stage_started(stage: str, run_id: str, days: Days | None, version: str | None) -> None:
    say("stage_started", _stage(stage, run_id, days, version))


def stage_ended(
    stage: str, run_id: str, days: Days | None, version: str | None, *, status: str, rows: Mapping[str, int], seconds: float, error: str | None
) -> None:
    """`stage_done`, `stage_skipped`, `stage_refused` or `stage_failed`."""
    outcome = {"status": status, "rows": dict(rows), "seconds": round(seconds, 3), "error": error}
    say(f"stage_{status}", _stage(stage, run_id, days, version) | outcome, LEVELS.get(status, logging.INFO))


def _stage(stage: str, run_id: str, days: Days | None, version: str | None) -> dict[str, object]:
    return {"run_id": run_id, "stage": stage, "ds_from": days and days.first, "ds_to": days and days.last, "tokenizer_version": version}
