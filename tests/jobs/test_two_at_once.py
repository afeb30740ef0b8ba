"""Two real processes on one lakehouse: one day is worked once, two days side by side; where no lock holds, a publish that is too late fails whole."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import kill_lake
from benchmarks.kill_lake import FIRST, SECOND, THIRD, Prepared
from benchmarks.kill_victim import FAST_START

WITHOUT_LOCKS = Path(__file__).with_name("without_locks.py")
U2QT = str(Path(sys.executable).with_name("u2qt"))
LONGEST = 900.0  # seconds, on a machine with much other work
CONF = [part for key, value in FAST_START.items() for part in ("--conf", f"{key}={value}")]


@pytest.fixture
def lake(tasks: dict[str, Prepared], tmp_path: Path) -> Path:
    """Two published days of three."""
    shutil.copytree(tasks["day"].template, tmp_path / "lake")
    return tmp_path / "lake"


def together(prepared: Prepared, lake: Path, commands: Sequence[Sequence[str]], program: Sequence[str] = (U2QT,)) -> list[tuple[int, str]]:
    """Exit code and output of each, all begun before any ended. `{}` in `program` is the process's number."""
    where = ["--root", str(lake), "--input", str(prepared.raw), "--catalog", str(prepared.catalog), "--master", "local[1]", *CONF]
    running = [
        subprocess.Popen(
            [*(part.format(number) for part in program), *command, *where, "--run-id", f"run-{number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, command in enumerate(commands)
    ]
    try:
        said = [process.communicate(timeout=LONGEST)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, output) for process, output in zip(running, said, strict=True)]


def statuses(lake: Path) -> dict[str, set[str]]:
    """What the ledger has of each run's stages."""
    found: dict[str, set[str]] = {"run-0": set(), "run-1": set()}
    for row in kill_lake.rows_of(lake / "runs"):
        if row["run_id"] in found:
            found[str(row["run_id"])].add(str(row["status"]))
    return found


def test_two_runs_of_one_day_do_its_work_once(tasks: dict[str, Prepared], lake: Path) -> None:
    """Stage by stage one works and the other waits, then finds nothing to do; the rows are those of one undisturbed run."""
    day = ["run-day", "--ds", str(THIRD)]
    ended = together(tasks["day"], lake, [day, day])
    assert [code for code, _ in ended] == [0, 0], ended
    assert kill_lake.digests(lake) == tasks["day"].after
    stages = [(row["stage"], row["status"]) for row in kill_lake.rows_of(lake / "runs") if str(row["run_id"]).startswith("run-")]
    for stage in {stage for stage, _ in stages}:
        assert sorted(status for name, status in stages if name == stage) == ["done", "skipped"], stage


def test_two_days_side_by_side_both_succeed(tasks: dict[str, Prepared], lake: Path) -> None:
    """A repeated day beside a new one: every table is partitioned by day, so neither disturbs the other."""
    ended = together(tasks["day"], lake, [["run-day", "--ds", str(THIRD)], ["run-day", "--ds", str(FIRST), "--force"]])
    assert [code for code, _ in ended] == [0, 0], ended
    assert statuses(lake) == {"run-0": {"done"}, "run-1": {"done"}}
    assert kill_lake.digests(lake) == tasks["day"].after
    assert str(SECOND) in kill_lake.whole_days(lake)


def test_where_no_lock_holds_one_of_two_publishes_fails_whole(tasks: dict[str, Prepared], lake: Path, tmp_path: Path) -> None:
    """As on an object store: both are writing when the first commits. The other ends with exit 30; no row of it is to be seen."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    before = kill_lake.digests(lake)
    publish = ["publish", "--ds", str(SECOND), "--force"]
    ended = together(tasks["day"], lake, [publish, publish], (sys.executable, str(WITHOUT_LOCKS), str(meeting), "{}"))
    assert sorted(code for code, _ in ended) == [0, 30], ended
    winner, (_, said) = ("run-0", ended[1]) if ended[0][0] == 0 else ("run-1", ended[0])
    assert re.search(
        r"table user_tokens: (another process committed to the same days meanwhile|the . versions since its write began hold this run's commit 0 times)", said
    ), said
    assert kill_lake.digests(lake) == before
    assert {row["run_id"] for row in kill_lake.rows_of(lake / "user_tokens") if row["ds"] == str(SECOND)} == {winner}
    assert statuses(lake)[winner] == {"done"}
    assert statuses(lake)["run-0" if winner == "run-1" else "run-1"] == {"refused"}
