"""Identifiers: the only values that may be written into SQL text, table properties or paths.

Every outside value (a file's name, a command-line argument, a catalog's field) passes one of these functions first.
They return the value unchanged or raise `IdentifierError`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from schemas.errors import IdentifierError

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}\Z", re.ASCII)
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z", re.ASCII)
DURATION = re.compile(r"(\d{1,5})([smhd])\Z", re.ASCII)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})\Z", re.ASCII)
FIRST_DAY, LAST_DAY = date(1970, 1, 1), date(2199, 12, 31)  # room for offsets and lags within what Python and Spark can count
SHOWN = 80  # characters of a refused value
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def name(value: str) -> str:
    """A source, column or table name."""
    if not NAME.match(value):
        raise IdentifierError(f"name {_shown(value)}: expected {NAME.pattern[:-2]} (lower case, digits, underscore)")
    return value


def version(value: str) -> str:
    """A tokenizer version, run id or delivery id given by a person."""
    if not VERSION.match(value) or ".." in value:
        raise IdentifierError(f"version {_shown(value)}: expected letters, digits, '.', '_' or '-', 1 to 63 of them")
    return value


def day(value: str) -> date:
    """A day written YYYY-MM-DD."""
    try:
        parsed = date.fromisoformat(value) if DAY.match(value) else None
    except ValueError:  # the shape is right, the date impossible
        parsed = None
    if parsed is None:
        raise IdentifierError(f"day {_shown(value)}: expected a date written YYYY-MM-DD, such as 2026-01-31")
    if not FIRST_DAY <= parsed <= LAST_DAY:
        raise IdentifierError(f"day {value!r}: expected a day from {FIRST_DAY} to {LAST_DAY}")
    return parsed


def moment(value: str) -> datetime:
    """A moment written ISO 8601 with its offset from UTC, such as 2026-02-01T06:00:00+08:00."""
    try:
        parsed = datetime.fromisoformat(value) if MOMENT.match(value) else None  # fromisoformat takes any character for the T
    except ValueError:
        parsed = None
    if parsed is None or not FIRST_DAY < parsed.date() < LAST_DAY:
        raise IdentifierError(f"moment {_shown(value)}: expected ISO 8601 with an offset, such as 2026-02-01T06:00:00+08:00")
    return parsed


def duration(value: str) -> timedelta:
    """A duration such as 90s, 30m, 6h or 1d."""
    match = DURATION.match(value)
    if not match:
        raise IdentifierError(f"duration {_shown(value)}: expected a number and one of s, m, h, d, such as 6h")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def _shown(value: str) -> str:
    """A refused value in pure ASCII, so that a look-alike shows, and cut."""
    return ascii(value) if len(value) <= SHOWN else f"{value[:SHOWN]!a}... ({len(value):,} characters)"


@dataclass(frozen=True, slots=True)
class Days:
    """The days `first` to `last`, both included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise IdentifierError(f"days {self.first} to {self.last}: expected the first day not after the last")

    def __iter__(self) -> Iterator[date]:
        return (self.first + timedelta(days=n) for n in range(len(self)))

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __contains__(self, value: date) -> bool:
        return self.first <= value <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"
