"""Leases: shared ones stand side by side, an exclusive one stands alone, a dead process holds nothing, a late one commits nothing."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs import leases
from jobs.context import Context
from jobs.errors import Infrastructure
from jobs.leases import Lease, held, standing

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def lake_context(context: Context) -> Context:
    Path(context.lake.root).mkdir()
    return context


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def foreign(context: Context, **changes: object) -> Path:
    """A lease that another machine holds, as a file."""
    lease = Lease(
        lease_id="f" * 32,
        order=1,
        run_id="theirs",
        purpose="publish",
        exclusive=False,
        host="elsewhere 1",
        processes=((1, "1"),),
        started_at=NOW,
        expires_at=datetime.now(UTC) + timedelta(minutes=2),
    )
    leases._write(context.lake.own_folder("leases"), replace(lease, **changes))  # type: ignore[arg-type]
    return context.lake.own_folder("leases") / f"{lease.lease_id}.json"


def test_shared_leases_stand_side_by_side_and_go_with_their_block(lake_context: Context) -> None:
    """Also when the block ends by an error."""
    lake = lake_context.lake
    with held(lake, "build", "a"), held(lake, "sql", "b", patience=0):
        assert [lease.run_id for lease in standing(lake)] == ["a", "b"]
    with contextlib.suppress(KeyError), held(lake, "build", "a"):
        raise KeyError
    assert standing(lake) == []


def test_an_exclusive_lease_waits_for_others_and_stops_later_ones(lake_context: Context) -> None:
    """With patience at an end the one in the way is named; what was waiting leaves nothing behind."""
    lake = lake_context.lake
    with (
        held(lake, "build", "a"),
        pytest.raises(Infrastructure, match=r"forget: needs the lakehouse for itself, but `build` \(run a, since .* UTC on .*"),
        held(lake, "forget", "b", exclusive=True, patience=0.3),
    ):
        pass
    with held(lake, "forget", "b", exclusive=True), pytest.raises(Infrastructure, match=r"build: can't begin: `forget`"), held(lake, "build", "c", patience=0):
        pass
    assert standing(lake) == []


def test_a_waiting_exclusive_lease_is_not_overtaken(lake_context: Context) -> None:
    """A shared one that comes while it waits has to wait as well, so readers in turns can't keep it out for ever."""
    lake, begun = lake_context.lake, []

    def alone() -> None:
        with held(lake_context.lake, "forget", "b", exclusive=True):
            begun.append(time.monotonic())

    with held(lake, "build", "a"):
        thread = threading.Thread(target=alone)
        thread.start()
        while len(standing(lake)) < 2:
            time.sleep(0.01)
        with pytest.raises(Infrastructure, match="`forget`"), held(lake, "sql", "c", patience=0):
            pass
        assert not begun
    thread.join(10)
    assert begun


def test_a_lease_of_another_machine_stands_until_its_time_has_passed(lake_context: Context) -> None:
    """Its processes mean nothing here."""
    path = foreign(lake_context)
    with pytest.raises(Infrastructure, match="publish"), held(lake_context.lake, "forget", "b", exclusive=True, patience=0):
        pass
    foreign(lake_context, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with held(lake_context.lake, "forget", "b", exclusive=True, patience=0):
        assert not path.exists()


def test_a_dead_process_holds_nothing(lake_context: Context, sleeper: subprocess.Popen[bytes]) -> None:
    """At once, on its own machine; another process that got its pid is not it."""
    processes = ((sleeper.pid, leases._start(sleeper.pid)),)
    path = foreign(lake_context, host=leases.this_host(), processes=processes)
    assert len(standing(lake_context.lake)) == 1
    sleeper.kill()
    sleeper.wait()
    assert standing(lake_context.lake) == []
    assert not path.exists()
    foreign(lake_context, host=leases.this_host(), processes=((os.getpid(), "another start"),))
    assert standing(lake_context.lake) == []


def test_a_process_that_can_t_be_seen_is_taken_for_alive(lake_context: Context, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc with hidepid hides other users' processes; a container with our host name has pids of its own."""
    processes = ((sleeper.pid, leases._start(sleeper.pid)),)
    read = Path.read_text

    def hidden(path: Path, **options: str) -> str:
        if path.name == "stat":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read(path, **options)

    foreign(lake_context, host=leases.this_host(), processes=processes)
    monkeypatch.setattr(Path, "read_text", hidden)
    assert len(standing(lake_context.lake)) == 1
    sleeper.kill()
    sleeper.wait()
    assert standing(lake_context.lake) == []
    pids = os.readlink("/proc/self/ns/pid")
    assert leases.this_host().endswith(pids)
    foreign(lake_context, host=leases.this_host().replace(pids, "pid:[1]"), processes=processes)
    assert len(standing(lake_context.lake)) == 1


def test_who_is_alone_waits_for_a_commit_that_outlasts_its_lease(lake_context: Context) -> None:
    """Its machine slept in the middle of it: the lease is over, and the commit may still come."""
    lake = lake_context.lake
    alone = held(lake, "forget", "b", exclusive=True, patience=0.3)
    with lake.commit_lock(), pytest.raises(Infrastructure, match="forget: a commit has been under way for 0 s"), alone:
        pass
    assert standing(lake) == []


def test_a_driver_killed_alone_is_waited_for_until_its_jvm_is_gone(lake_context: Context, sleeper: subprocess.Popen[bytes]) -> None:
    """The JVM may still commit what its dead driver began, so not even a shared lease begins beside it."""
    foreign(lake_context, host=leases.this_host(), processes=((2**22 + 1, "1"), (sleeper.pid, leases._start(sleeper.pid))))
    with pytest.raises(Infrastructure, match="build: can't begin: `publish`"), held(lake_context.lake, "build", "b", patience=0):
        pass
    sleeper.kill()
    sleeper.wait()
    with held(lake_context.lake, "build", "b", patience=0):
        pass


def test_a_lease_is_renewed_and_one_that_ran_out_commits_nothing(ready: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept through its lease finds it gone; until then renewals keep it."""
    rows = ready.lake.read("runs")
    monkeypatch.setattr(leases, "LASTS", timedelta(seconds=1.2))
    with held(ready.lake, "build", "a"):
        time.sleep(1.8)
        version = ready.lake.append("runs", rows, {})
        for path in ready.lake.own_folder("leases").glob("*.json"):
            path.unlink()  # as another machine clears it away once it is over
        with pytest.raises(Infrastructure, match="build: its lease on the lakehouse ran out"):
            ready.lake.append("runs", rows, {})
    assert ready.lake.version("runs") == version


def test_a_folder_that_is_not_there_is_not_made_for_a_reader(context: Context) -> None:
    """A root with a spelling mistake stays one, for who wants it alone too."""
    for exclusive in (False, True):
        with held(context.lake, "sql", "a", exclusive=exclusive):
            pass
    assert not Path(context.lake.root).exists()


def test_a_root_without_locks_refuses_what_needs_it_alone(context: Context) -> None:
    """An object store: shared commands run as before."""
    context.lake.is_local = False
    with held(context.lake, "sql", "a"):
        pass
    with pytest.raises(Infrastructure, match=r"needs .* for itself, and only a file system has the locks"), held(context.lake, "forget", "a", exclusive=True):
        pass


def test_a_person_who_may_only_read_is_told(lake_context: Context, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """And reads all the same."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with held(lake_context.lake, "sql", "a"):
        pass
    assert "is read-only for this user, so no lease is taken" in caplog.text


def test_the_oldest_lease_says_what_may_be_in_use() -> None:
    """Without a lease nothing is."""
    lease = Lease(lease_id="a", order=1, run_id="a", purpose="sql", exclusive=False, host="", processes=(), started_at=NOW, expires_at=NOW)
    later = NOW + timedelta(hours=1)
    assert leases.oldest_start([replace(lease, started_at=later), lease], later) == NOW
    assert leases.oldest_start([], later) == later


def test_a_renewal_that_fails_is_tried_again(lake_context: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk for a moment costs a warning, not the lease."""
    monkeypatch.setattr(leases, "LASTS", timedelta(seconds=3))
    write, fails = leases._write, iter([False, True, True])  # the lease itself, then two renewals

    def full(folder: Path, lease: Lease) -> None:
        if next(fails, False):
            raise OSError(28, "No space left on device")
        write(folder, lease)

    monkeypatch.setattr(leases, "_write", full)
    with held(lake_context.lake, "build", "a"):
        first = standing(lake_context.lake)[0]
        time.sleep(2.5)
        assert standing(lake_context.lake)[0].expires_at > first.expires_at
    assert caplog.text.count("could not be renewed (No space left on device)") == 2
