"""Leases: who works in a lakehouse, or reads from it, right now.

Every command holds one while it has a session. Shared leases stand side by side; an exclusive one (`init`, `forget`, a
promotion, a vacuum without retention) waits until no other stands, and new ones wait for it. A vacuum keeps every file that
was current when the oldest lease began, so that no pinned reader loses one.

A lease is a small file that its holder renews. It is over when its time has passed, when its holder ended, or, on this
machine, when every process of its holder is dead: a driver killed alone leaves a JVM that may still commit, and that is
waited for. A holder whose lease is over (a machine that slept) may not commit any more. Local roots only: an object store
has no lock to do this with, so what needs the lakehouse for itself is refused there.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import filelock
from pyspark.sql import SparkSession

from jobs.delta_tables import Lakehouse
from jobs.errors import Infrastructure

LOG = logging.getLogger("u2qt")
LASTS = timedelta(minutes=2)
RENEWALS = 6  # in the time that a lease lasts: a busy machine may miss some
PATIENCE = 3600.0  # seconds that a command waits for one that has the lakehouse for itself
ALONE_PATIENCE = 600.0  # seconds that one waits to have it for itself; meanwhile nothing new begins
LOOK_AGAIN = 0.2  # seconds
INIT = "init"  # the one command that makes the folder
HIDDEN = "hidden"  # start of a process that another user's eyes can't see, but that is there


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """One holder. `processes` are (pid, start) pairs on `host`, the driver's Python first; without any, only time ends the lease."""

    lease_id: str
    order: int  # who came first, given under the guard: clocks of two machines differ
    run_id: str
    purpose: str  # the command
    exclusive: bool
    host: str
    processes: tuple[tuple[int, str], ...]
    started_at: datetime
    expires_at: datetime

    def stands(self, now: datetime) -> bool:
        if now >= self.expires_at:
            return False
        return self.host != this_host() or not self.processes or any(self._alive())

    @property
    def orphaned(self) -> bool:
        """Its driver's Python is dead and its JVM is not yet: nobody decides any more, but a commit may be under way."""
        return self.host == this_host() and bool(self.processes) and not self._alive()[0]

    def _alive(self) -> list[bool]:
        return [_start(pid) in (start, HIDDEN) for pid, start in self.processes]

    def __str__(self) -> str:
        return f"`{self.purpose}` (run {self.run_id}, since {self.started_at:%Y-%m-%d %H:%M:%S} UTC on {self.host.partition(' ')[0]})"


@contextmanager
def held(lake: Lakehouse, purpose: str, run_id: str, *, exclusive: bool = False, patience: float | None = None) -> Iterator[None]:
    """The lakehouse is shared with others, or the caller's alone, until the block ends.

    Raises `Infrastructure` when others stood in the way for `patience` seconds, and for `exclusive` on an object store.
    """
    if patience is None:
        patience = ALONE_PATIENCE if exclusive else PATIENCE
    if not lake.is_local or not (exclusive or _writable(lake)):
        if exclusive:
            raise Infrastructure(f"{purpose}: needs {lake.root} for itself, and only a file system has the locks for that; run it on a mounted copy")
        yield
        return
    if purpose != INIT and not Path(lake.root).is_dir():  # the command says itself that there is nothing
        yield
        return
    folder = lake.own_folder("leases")
    lease = _new(lake.spark, purpose, run_id, exclusive)
    ended = threading.Event()
    try:
        lease = _entered(folder, lease, patience)
        renewing = threading.Thread(target=_renew, args=(folder, lease, ended), daemon=True, name="u2qt-lease")
        renewing.start()
        lake.standing, lake.lease_id = partial(_require_standing, _path(folder, lease), purpose), lease.lease_id
        if exclusive:
            _wait_for_commits(lake, purpose, patience)
        yield
    finally:
        ended.set()
        lake.standing = lake.lease_id = None
        with _guard(folder):
            _path(folder, lease).unlink(missing_ok=True)


def _wait_for_commits(lake: Lakehouse, purpose: str, patience: float) -> None:
    """A holder whose lease ran out in the middle of a commit (its machine slept) may still end that one; after it, no other."""
    try:
        with lake.commit_lock(patience):
            pass
    except filelock.Timeout:
        raise Infrastructure(f"{purpose}: a commit has been under way for {patience:.0f} s; wait for its process, or stop it") from None


def _require_standing(path: Path, purpose: str) -> None:
    """Raises `Infrastructure` when the holder's own lease is over: others may have taken its files since."""
    with _guard(path.parent):
        lease = _read(path)
    if lease is None or datetime.now(UTC) >= lease.expires_at:
        raise Infrastructure(f"{purpose}: its lease on the lakehouse ran out (this machine slept or was too busy), nothing was committed; run it again")


def standing(lake: Lakehouse) -> list[Lease]:
    """The leases that stand now, oldest first; files of others are cleared away."""
    folder = lake.own_folder("leases")
    with _guard(folder):
        return _standing(folder)


def in_use_by(lake: Lakehouse) -> list[Lease]:
    """The leases of others whose files may be in use. Who has the lakehouse alone has none beside it: those that wait have read nothing."""
    found = standing(lake)
    mine = next((lease for lease in found if lease.lease_id == lake.lease_id), None)
    return [] if mine is not None and mine.exclusive else [lease for lease in found if lease is not mine]


def oldest_start(leases: Sequence[Lease], now: datetime) -> datetime:
    """What was current from this moment on may be in use."""
    return min((lease.started_at for lease in leases), default=now)


def this_host() -> str:
    """Names the machine since its last start, and the container: a pid means something there alone."""
    boot, pids = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return " ".join((socket.gethostname(), *([boot.read_text().strip()] if boot.exists() else []), *([os.readlink(pids)] if pids.is_symlink() else [])))


def _writable(lake: Lakehouse) -> bool:
    """A person who may only read, or a folder that is not there yet: nothing to hold, the command says what is wrong itself."""
    root = Path(lake.root)
    if root.is_dir() and not os.access(root, os.W_OK):
        LOG.warning("%s is read-only for this user, so no lease is taken: a query that outlasts the retention may lose files", root)
        return False
    return root.is_dir()


def _new(spark: SparkSession, purpose: str, run_id: str, exclusive: bool) -> Lease:
    jvm = int(spark._jvm.java.lang.ProcessHandle.current().pid())  # type: ignore[union-attr]
    now = datetime.now(UTC)
    return Lease(
        lease_id=uuid.uuid4().hex,
        order=0,
        run_id=run_id,
        purpose=purpose,
        exclusive=exclusive,
        host=this_host(),
        processes=tuple((pid, _start(pid)) for pid in (os.getpid(), jvm)),
        started_at=now,
        expires_at=now + LASTS,
    )


def _entered(folder: Path, mine: Lease, patience: float) -> Lease:
    """The lease, once nothing older stands in its way. One that waits alone for the lakehouse stops all that come later."""
    deadline = time.monotonic() + patience
    while True:
        with _guard(folder):
            others = [lease for lease in _standing(folder) if lease.lease_id != mine.lease_id]
            if not _path(folder, mine).exists():  # not written yet, or cleared away as over while this process slept
                mine = replace(mine, order=max((lease.order for lease in others), default=0) + 1)
            mine = replace(mine, expires_at=datetime.now(UTC) + LASTS)
            _write(folder, mine)
        ahead = [lease for lease in others if lease.order < mine.order and (mine.exclusive or lease.exclusive or lease.orphaned)]
        if not ahead:
            return mine
        if time.monotonic() >= deadline:
            word = "needs the lakehouse for itself, but" if mine.exclusive else "can't begin:"
            raise Infrastructure(f"{mine.purpose}: {word} {ahead[0]} has stood in the way for {patience:.0f} s; wait for it, or stop it")
        time.sleep(LOOK_AGAIN)


def _renew(folder: Path, lease: Lease, ended: threading.Event) -> None:
    """Never revives a lease whose file is gone, or whose time has passed: another may have relied on that."""
    while not ended.wait(LASTS.total_seconds() / RENEWALS):
        try:
            with _guard(folder):
                current = _read(_path(folder, lease))
                if current is None or datetime.now(UTC) >= current.expires_at or ended.is_set():
                    return
                _write(folder, replace(lease, expires_at=datetime.now(UTC) + LASTS))
        except OSError as error:  # a full disk may have room again before the lease is over
            LOG.warning("the lease could not be renewed (%s): a commit after it is over will be refused", error.strerror)


def _guard(folder: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(folder.parent / "leases.lock")


def _path(folder: Path, lease: Lease) -> Path:
    return folder / f"{lease.lease_id}.json"


def _write(folder: Path, lease: Lease) -> None:
    """Whole or not at all: a reader of the folder never sees half a file."""
    part = folder / f".{lease.lease_id}.part"
    part.write_text(json.dumps(asdict(lease), default=str), encoding="utf-8")
    part.replace(_path(folder, lease))


def _read(path: Path) -> Lease | None:
    if not path.exists():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["processes"] = tuple((int(pid), str(start)) for pid, start in facts["processes"])
    for moment in ("started_at", "expires_at"):
        facts[moment] = datetime.fromisoformat(facts[moment])
    return Lease(**facts)


def _standing(folder: Path) -> list[Lease]:
    """Under the guard, so that a file seen is whole and a part left over is a dead process's."""
    for part in folder.glob(".*.part"):
        part.unlink()
    now = datetime.now(UTC)
    found = {path: _read(path) for path in sorted(folder.glob("*.json"))}
    for path, lease in found.items():
        if lease is not None and not lease.stands(now):
            path.unlink()
    return sorted((lease for lease in found.values() if lease is not None and lease.stands(now)), key=lambda lease: lease.order)


def _start(pid: int) -> str:
    """When a process began, in the system's ticks; empty when it is dead. A pid comes again, a pid with its start doesn't.

    `HIDDEN` where the system doesn't say (/proc with hidepid, no /proc): then only time ends the lease of a pid that is taken.
    """
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except OSError:
        return HIDDEN if _taken(pid) else ""


def _taken(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
