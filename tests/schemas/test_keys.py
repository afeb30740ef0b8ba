"""Identifiers: what may reach SQL text and paths."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import keys
from schemas.errors import IdentifierError

HARMLESS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@given(st.text())
def test_nothing_but_harmless_characters_passes(value: str) -> None:
    """Whatever passes as a name or version has no quote, slash, backtick, space or look-alike in it."""
    for check in (keys.name, keys.version):
        try:
            passed = check(value)
        except IdentifierError:
            continue
        assert set(passed) <= HARMLESS
        assert ".." not in passed


@pytest.mark.parametrize("value", ["2026-02-30", "2026-1-1", "20260101", "today", "2026-01-01\n", "٢٠٢٦-٠١-٠١"])
def test_a_day_is_a_date_written_out(value: str) -> None:
    """The message shows the form."""
    with pytest.raises(IdentifierError, match="YYYY-MM-DD"):
        keys.day(value)


def test_days_count_both_ends() -> None:
    """Three days from the 30th to the 1st."""
    days = keys.Days(date(2026, 1, 30), date(2026, 2, 1))
    assert (len(days), list(days)[-1], date(2026, 1, 31) in days) == (3, date(2026, 2, 1), True)


def test_days_do_not_run_backwards() -> None:
    """A range the wrong way round is a typing error, not an empty range."""
    with pytest.raises(IdentifierError, match="not after"):
        keys.Days(date(2026, 1, 2), date(2026, 1, 1))


def test_durations_and_moments() -> None:
    """A moment without an offset is ambiguous and refused."""
    assert keys.duration("6h") == timedelta(hours=6)
    assert keys.moment("2026-02-01T06:00:00+08:00").utcoffset() == timedelta(hours=8)
    for wrong in ("6 h", "1w", "-1d"):
        with pytest.raises(IdentifierError):
            keys.duration(wrong)
    with pytest.raises(IdentifierError, match="offset"):
        keys.moment("2026-02-01T06:00:00")
