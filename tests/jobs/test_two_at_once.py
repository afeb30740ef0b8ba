"""Two real processes on one lakehouse: one day is worked once, two days side by side, a forgetting waits for a publish; where no
lock holds, a publish that is too late fails whole."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import kill_lake
from benchmarks.kill_lake import FIRST, SECOND, THIRD, Prepared
from benchmarks.kill_victim import FAST_START

MEETING_WRITERS = Path(__file__).with_name("meeting_writers.py")
U2QT = str(Path(sys.executable).with_name("u2qt"))
LONGEST = 900.0  # seconds, on a machine with much other work
CONF = [part for key, value in FAST_START.items() for part in ("--conf", f"{key}={value}")]


@pytest.fixture
def lake(tasks: dict[str, Prepared], tmp_path: Path) -> Path:
    """Two published days of three."""
    shutil.copytree(tasks["day"].template, tmp_path / "lake")
    return tmp_path / "lake"


def begun(prepared: Prepared, lake: Path, command: Sequence[str], program: Sequence[str] = (U2QT,)) -> "subprocess.Popen[str]":
    where = ["--root", str(lake), "--input", str(prepared.raw), "--catalog", str(prepared.catalog), "--master", "local[1]", *CONF]
    return subprocess.Popen([*program, *command, *where], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(running: Sequence["subprocess.Popen[str]"]) -> list[tuple[int, str]]:
    """Exit code and output of each."""
    try:
        said = [process.communicate(timeout=LONGEST)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, output) for process, output in zip(running, said, strict=True)]


def together(prepared: Prepared, lake: Path, commands: Sequence[Sequence[str]], program: Sequence[str] = (U2QT,)) -> list[tuple[int, str]]:
    """Exit code and output of each, all begun before any ended. `{}` in `program` is the process's number."""
    programs = [[part.format(number) for part in program] for number in range(len(commands))]
    named = [[*command, "--run-id", f"run-{number}"] for number, command in enumerate(commands)]
    return ended([begun(prepared, lake, command, mine) for command, mine in zip(named, programs, strict=True)])


def eventually(what: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Waits for it while the process runs."""
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


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
    found = together(tasks["day"], lake, [day, day])
    assert [code for code, _ in found] == [0, 0], found
    assert kill_lake.digests(lake) == tasks["day"].after
    stages = [(row["stage"], row["status"]) for row in kill_lake.rows_of(lake / "runs") if str(row["run_id"]).startswith("run-")]
    for stage in {stage for stage, _ in stages}:
        assert sorted(status for name, status in stages if name == stage) == ["done", "skipped"], stage


def test_two_days_side_by_side_both_succeed(tasks: dict[str, Prepared], lake: Path) -> None:
    """A repeated day beside a new one: every table is partitioned by day, so neither disturbs the other."""
    found = together(tasks["day"], lake, [["run-day", "--ds", str(THIRD)], ["run-day", "--ds", str(FIRST), "--force"]])
    assert [code for code, _ in found] == [0, 0], found
    assert statuses(lake) == {"run-0": {"done"}, "run-1": {"done"}}
    assert kill_lake.digests(lake) == tasks["day"].after
    assert str(SECOND) in kill_lake.whole_days(lake)


def test_where_no_lock_holds_one_of_two_publishes_fails_whole(tasks: dict[str, Prepared], lake: Path, tmp_path: Path) -> None:
    """As on an object store: both are writing when the first commits. The other ends with exit 30; no row of it is to be seen."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    before = kill_lake.digests(lake)
    publish = ["publish", "--ds", str(SECOND), "--force"]
    found = together(tasks["day"], lake, [publish, publish], (sys.executable, str(MEETING_WRITERS), str(meeting), "{}", "no-locks"))
    assert sorted(code for code, _ in found) == [0, 30], found
    winner, (_, said) = ("run-0", found[1]) if found[0][0] == 0 else ("run-1", found[0])
    assert re.search(
        r"table user_tokens: (another process committed to the same days meanwhile|the . versions since its write began hold this run's commit 0 times)", said
    ), said
    assert kill_lake.digests(lake) == before
    assert {row["run_id"] for row in kill_lake.rows_of(lake / "user_tokens") if row["ds"] == str(SECOND)} == {winner}
    assert statuses(lake)[winner] == {"done"}
    assert statuses(lake)["run-0" if winner == "run-1" else "run-1"] == {"refused"}


def test_forgetting_waits_for_a_publish_and_every_day_is_read_afterwards(tasks: dict[str, Prepared], lake: Path, tmp_path: Path) -> None:
    """Started in the middle of its write. The rows of that write are found and removed too; no file is missing that a table names."""
    meeting, key, users = tmp_path / "meeting", tmp_path / "key", tmp_path / "users.txt"
    meeting.mkdir()
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    before = kill_lake.rows_of(lake / "user_tokens")
    user = next(str(row["user_id"]) for row in before if row["ds"] == str(SECOND))
    users.write_text(f"{user}\n")
    publishing = begun(
        tasks["day"], lake, ["publish", "--ds", str(SECOND), "--force"], (sys.executable, str(MEETING_WRITERS), str(meeting), "publish", "locks")
    )
    eventually((meeting / "publish").exists, publishing)
    forget = ["forget", "--users", str(users), "--key-file", str(key), "--certificate", str(tmp_path / "certificate.json")]
    forgetting = begun(tasks["day"], lake, forget)
    eventually(lambda: len(list((lake / "_u2qt" / "leases").glob("*.json"))) == 2, forgetting)
    assert kill_lake.rows_of(lake / "user_tokens") == before
    (meeting / "go").touch()
    found = ended([publishing, forgetting])
    assert [code for code, _ in found] == [0, 0], found
    left = kill_lake.rows_of(lake / "user_tokens")
    assert sorted(keys_of(left)) == sorted(key for key in keys_of(before) if key[0] != user)
    assert {row["run_id"] for row in left if row["ds"] == str(SECOND)} != {row["run_id"] for row in before if row["ds"] == str(SECOND)}
    assert kill_lake.unreadable_files(lake) == []
    again = ended([begun(tasks["day"], lake, ["run-day", "--from", str(FIRST), "--to", str(SECOND), "--key-file", str(key)])])
    assert again[0][0] == 0, again
    assert sorted(keys_of(kill_lake.rows_of(lake / "user_tokens"))) == sorted(keys_of(left))


def keys_of(rows: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(row["user_id"], row["ds"]) for row in rows]
