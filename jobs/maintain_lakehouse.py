"""maintain_lakehouse: old days go, small files are put together, files that nobody can be reading are removed.

Reads the tables' file lists, the ledger and the leases; writes every table but none of its kept rows. Idempotent: a second
run finds nothing to do but its own files. One commit per removed table and per range of compacted days, one vacuum per table
with dead files; no row reaches the driver.

Not compacted: user_features (a file is a unit of encoding, its row groups are bounded, and a killed training goes on only
over the files that it began with) and staged_user_tokens (an audit is of files, not of rows). Rows of a day stay equal, so
the stages skip it afterwards as before. What a lease may be reading stays: see `Horizon`.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import filelock

from jobs import leases
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.errors import BadInput, Infrastructure
from jobs.leases import Lease
from jobs.ledger import StageRecord, record_stage
from jobs.registered_tokenizers import all_registered, checkpoint_folder
from jobs.retention import NOTE, STAGE, Keep, Removal, removals
from jobs.table_files import Use, compact, counted, crowded, use, vacuum
from schemas.lakehouse import tables
from schemas.table import Table

RETAIN_HOURS = 168  # as the tables' own property says
SMALL_FILES = 8  # in a partition; more are put together
NOT_COMPACTED = ("user_features", "staged_user_tokens")
MARGIN = timedelta(minutes=10)  # clocks of two machines, and of a file server, differ


@dataclass(frozen=True, kw_only=True, slots=True)
class Horizon:
    """Files that were current in the last `hours` stay, because of `reader` where that says more than was asked for."""

    hours: int
    reader: Lease | None = None

    @classmethod
    def of(cls, standing: list[Lease], retain_hours: int, now: datetime) -> "Horizon":
        """Delta counts in whole hours: a reader's age and the margin are rounded up."""
        oldest = min(standing, key=lambda lease: lease.started_at, default=None)
        if oldest is None:
            return cls(hours=retain_hours)
        needed = math.ceil((now - leases.oldest_start(standing, now) + MARGIN) / timedelta(hours=1))
        return cls(hours=retain_hours) if needed <= retain_hours else cls(hours=needed, reader=oldest)

    def __str__(self) -> str:
        if self.hours > RETAIN_HOURS:
            return f"all replaced files are kept: {self.reader} reads since {self.hours} h, and Delta forgets after {RETAIN_HOURS} h which files a version had"
        if self.reader is not None:
            return f"files of the last {self.hours} h are kept: {self.reader} reads since then"
        return f"files of the last {self.hours} h are kept" if self.hours else "no file is kept for readers: nobody else is in the lakehouse"


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """Partitions of a table that are older than the days to keep."""

    table: str
    through: date
    files: int
    rows: int


@dataclass(kw_only=True, slots=True)
class Maintenance:
    """What was done, or, on a dry run, would be. `after` is empty on a dry run."""

    before: dict[str, Use]
    after: dict[str, Use] = field(default_factory=dict)
    removed: list[Removed] = field(default_factory=list)
    compacted: dict[str, tuple[int, int]] = field(default_factory=dict)  # table -> files put together, files they became
    crowded: dict[str, int] = field(default_factory=dict)  # table -> ranges of partitions with too many small files
    horizon: Horizon = field(default_factory=lambda: Horizon(hours=RETAIN_HOURS))
    leftovers: list[str] = field(default_factory=list)


def run(
    context: Context,
    keep: Keep | None = None,
    *,
    retain_hours: int = RETAIN_HOURS,
    small_files: int = SMALL_FILES,
    dry_run: bool = False,
) -> Maintenance:
    """Raises `BadInput` for a retention that would cut into what readers are promised, `Infrastructure` beside another maintenance."""
    keep = keep or Keep()
    lake = context.lake
    if not lake.is_local and retain_hours < RETAIN_HOURS:
        raise BadInput(f"--retain-hours {retain_hours}: {lake.root} has no leases that say who reads, expected {RETAIN_HOURS} or more")
    if retain_hours > RETAIN_HOURS:
        raise BadInput(f"--retain-hours {retain_hours}: expected at most {RETAIN_HOURS}, for so long Delta remembers which files were replaced")
    known = [table for table in tables(context.catalog) if lake.exists(table.name)]
    lake.require("runs")
    if dry_run:
        return _planned(context, known, keep, retain_hours, small_files)
    with _only_one(lake):
        due = _announced(context, keep)
        with record_stage(context, STAGE, None) as record:
            done = Maintenance(before={table.name: use(lake, table.name) for table in known}, removed=[found for _, found in due])
            for removal, _ in due:
                _remove(context, removal, record)
            done.leftovers = _clear_leftovers(context)
            done.compacted = _compact(context, known, small_files)
            done.horizon = _vacuum(lake, known, retain_hours)
            done.after = {table.name: use(lake, table.name) for table in known}
            _note(record, done)
    return done


def _planned(context: Context, known: list[Table], keep: Keep, retain_hours: int, small_files: int) -> Maintenance:
    lake = context.lake
    found = Maintenance(before={table.name: use(lake, table.name) for table in known}, removed=[removed for _, removed in _due(context, keep)])
    found.crowded = {table.name: len(ranges) for table in known if table.name not in NOT_COMPACTED and (ranges := crowded(lake, table, small_files))}
    found.horizon = _horizon(lake, retain_hours)
    found.leftovers = [str(path) for path in _leftovers(context)]
    return found


@contextmanager
def _only_one(lake: Lakehouse) -> Iterator[None]:
    if not lake.is_local:
        yield
        return
    try:
        with filelock.FileLock(lake.own_folder() / "maintain.lock", timeout=0):
            yield
    except filelock.Timeout:
        raise Infrastructure(f"maintain: another one works in {lake.root}, expected to be the only one; wait for it") from None


def _due(context: Context, keep: Keep) -> list[tuple[Removal, Removed]]:
    """The removals that find something, with its size."""
    due = []
    for removal in removals(context, keep):
        sizes = [counted(context.lake, removal.table, where) for where in removal.wheres]
        files, rows = sum(size.files for size in sizes), sum(size.rows for size in sizes)
        if files:
            due.append((removal, Removed(table=removal.table, through=removal.through, files=files, rows=rows)))
    return due


def _announced(context: Context, keep: Keep) -> list[tuple[Removal, Removed]]:
    """Noted before anything goes: whoever is killed in between leaves no day that looks as if it had never had rows."""
    due = _due(context, keep)
    if due:
        with record_stage(context, STAGE, None) as record:
            record.notes[NOTE] = {removal.table: str(removal.through) for removal, _ in due}
            record.rows |= {f"{found.table}.to_remove": found.rows for _, found in due}
    return due


def _remove(context: Context, removal: Removal, record: StageRecord) -> None:
    metadata = {"run_id": context.run_id, "stage": STAGE, "removed_through": str(removal.through)}
    nothing = context.lake.read(removal.table).limit(0)
    for where in removal.wheres:
        record.written[removal.table] = context.lake.replace(removal.table, nothing, where, metadata)


def _compact(context: Context, known: list[Table], small_files: int) -> dict[str, tuple[int, int]]:
    metadata = {"run_id": context.run_id, "stage": STAGE}
    compacted: dict[str, tuple[int, int]] = {}
    for table in known:
        if table.name in NOT_COMPACTED:
            continue
        parts = [compact(context.lake, table.name, where, metadata) for where in crowded(context.lake, table, small_files)]
        if parts:
            compacted[table.name] = (sum(before for before, _ in parts), sum(after for _, after in parts))
    return compacted


def _horizon(lake: Lakehouse, retain_hours: int) -> Horizon:
    return Horizon.of(leases.in_use_by(lake) if lake.is_local else [], retain_hours, datetime.now(UTC))


def _vacuum(lake: Lakehouse, known: list[Table], retain_hours: int) -> Horizon:
    """Asks before every table who reads: the oldest reader then is never younger than a file that goes. Returns the farthest horizon.

    Delta drops its record of a removed file after `RETAIN_HOURS` (deletedFileRetentionDuration), and takes it for a stray one then, whatever
    hours a vacuum is given: for an older reader nothing goes.
    """
    farthest = Horizon(hours=retain_hours)
    for table in known:
        if use(lake, table.name).dead_files:
            horizon = _horizon(lake, retain_hours)
            farthest = max(farthest, horizon, key=lambda horizon: horizon.hours)
            if horizon.hours <= RETAIN_HOURS:
                vacuum(lake, table.name, horizon.hours)
    return farthest


def _leftovers(context: Context) -> list[Path]:
    """Files of interrupted trainings whose version is registered by now; none while somebody trains. Leases clear their own files."""
    if not context.lake.is_local or any(lease.purpose == "train" for lease in leases.standing(context.lake)):
        return []
    folder = checkpoint_folder(context, None)
    states = [folder / f".{registered.version}.training" for registered in all_registered(context)]
    return [path for path in states if path.exists()]


def _clear_leftovers(context: Context) -> list[str]:
    found = _leftovers(context)
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return [str(path) for path in found]


def _note(record: StageRecord, done: Maintenance) -> None:
    """Files and bytes of every table before and after; their sums have names without a dot."""
    for name, uses in (("before", done.before), ("after", done.after)):
        for table, found in uses.items():
            record.rows |= {f"{table}.files_{name}": found.files, f"{table}.bytes_{name}": found.bytes}
        record.rows |= {f"files_{name}": sum(found.files for found in uses.values()), f"bytes_{name}": sum(found.bytes for found in uses.values())}
    record.rows["removed"] = sum(removed.rows for removed in done.removed)
    record.notes |= {"kept_hours": done.horizon.hours, "why": str(done.horizon), "leftovers": len(done.leftovers)}


if __name__ == "__main__":
    from jobs.cli import submit

    submit("maintain")
