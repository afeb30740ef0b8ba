"""Two runs of one day: one waits for the other, or stops with a clear word; a dead one holds nothing."""

import os
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from jobs.changed_days import held_days
from jobs.context import Context
from jobs.day_states import DayState, runs_of_days
from jobs.errors import Infrastructure
from schemas.keys import Days

FIRST, SECOND, FOURTH = date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 4)
HOLDER = """
import sys, time, filelock
from pathlib import Path
with filelock.FileLock(Path(sys.argv[1]) / "2024-01-02.lock"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_run(context: Context) -> subprocess.Popen[str]:
    """Another process that works on the 2nd."""
    folder = context.lake.own_folder("days")
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_day_that_another_run_works_on_is_waited_for(context: Context, other_run: subprocess.Popen[str]) -> None:
    """Another day is free at once; the held one says what to do when patience ends; a killed run frees it."""
    with held_days(context.lake, Days(FIRST, FIRST), patience=0.1):
        pass
    with (
        pytest.raises(Infrastructure, match=r"2024-01-02: another run has worked on this day .*u2qt status --ds 2024-01-02"),
        held_days(context.lake, Days(FIRST, SECOND), patience=0.3),
    ):
        pass
    other_run.send_signal(signal.SIGKILL)
    started = time.monotonic()
    with held_days(context.lake, Days(FIRST, SECOND), patience=10):
        assert time.monotonic() - started < 5
    assert sorted(os.listdir(Path(context.lake.root) / "_u2qt" / "days")) == ["2024-01-01.lock", "2024-01-02.lock"]


def test_ranges_have_no_gaps_and_lose_no_day() -> None:
    assert runs_of_days([FOURTH, FIRST, SECOND]) == [Days(FIRST, SECOND), Days(FOURTH, FOURTH)]
    assert runs_of_days([]) == []


def test_what_changed_is_said() -> None:
    """A missing sum is that of no rows."""
    state = DayState(ds=FIRST, definition="a", inputs={"bill": "2:5", "app": "0:0"}, outputs={"user_features": "2:9"})
    assert state.difference(DayState(ds=FIRST, definition="a", inputs={"bill": "2:5"}, outputs={"user_features": "2:9"})) == ""
    assert state.difference(DayState(ds=FIRST, definition="b", inputs={})) == "definition changed"
    assert state.difference(DayState(ds=FIRST, definition="a", inputs={"bill": "3:5", "app": "1:1"})) == "rows changed in app, bill"
    changed = DayState(ds=FIRST, definition="a", inputs=state.inputs, outputs={"user_features": "2:8"})
    assert state.difference(changed) == "its own rows in user_features are no longer those it wrote"
