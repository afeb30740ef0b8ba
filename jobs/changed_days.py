"""Which days of a stage have to be worked on, while no other process works on them.

A day is skipped when its newest attempt was done and everything it stood on, and everything it wrote, is as it was.
On a local root each day has a lock file, which the system frees when a process dies; an object store has Delta's own
conflict check, by which the later of two commits to one partition fails whole.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path

import filelock

from jobs.context import Context
from jobs.day_states import DayState, recorded_states, runs_of_days
from jobs.delta_tables import Lakehouse
from jobs.errors import Infrastructure
from jobs.ledger import record_stage
from schemas.keys import Days

Describe = Callable[[Days], dict[date, DayState]]
SHORT_PATIENCE = 60.0  # seconds; those who only look at a lock hold it for a moment
DAY_PATIENCE = 3600.0  # seconds that a run waits for another one of the same day


@contextmanager
def changed_days(context: Context, stage: str, days: Days, describe: Describe, *, version: str | None = None, force: bool = False) -> Iterator[list[Days]]:
    """Yields the ranges of `days` to work on; the others get a ledger row that says why not.

    `describe` says what the days' inputs and outputs are now. It may raise what the stage raises, and is not asked for
    days that were never done. Raises `Infrastructure` when another run holds a day for too long.
    """
    with held_days(context.lake, days):
        if force:
            yield [days]
            return
        known = recorded_states(context, stage, days, version)
        if not known:
            yield [days]
            return
        with record_stage(context, stage, days, version=version, only_errors=True):
            now = {part: describe(part) for part in runs_of_days(known)}
        same = [ds for part in now.values() for ds, state in part.items() if not known[ds].difference(state)]
        for part in runs_of_days(same):
            with record_stage(context, stage, part) as record:
                record.status = "skipped"
                record.notes["skipped"] = "its rows in, its definition and its rows out are as its last run left them"
        yield runs_of_days({*days} - {*same})


@contextmanager
def held_days(lake: Lakehouse, days: Days, patience: float = DAY_PATIENCE) -> Iterator[None]:
    """No other process works on `days`, in any stage, until the block ends. Locks are taken in order, so none wait in a ring."""
    if not lake.is_local:
        yield
        return
    folder = lake.own_folder("days")
    with ExitStack() as stack:
        for ds in days:
            try:
                stack.enter_context(filelock.FileLock(Path(folder) / f"{ds}.lock", timeout=patience))
            except filelock.Timeout:
                raise Infrastructure(
                    f"{ds}: another run has worked on this day for {patience:.0f} s; wait for it (`u2qt status --ds {ds}`), or stop it"
                ) from None
        yield


@contextmanager
def being_validated(lake: Lakehouse, days: Days) -> Iterator[None]:
    """Until the block ends, other processes can see that a living one validates `days`, which it holds."""
    if not lake.is_local:
        yield
        return
    with ExitStack() as stack:
        for ds in days:
            stack.enter_context(_validation_lock(lake, ds, timeout=SHORT_PATIENCE))
        yield


def is_being_validated(lake: Lakehouse, ds: date) -> bool:
    """Whether a living run validates `ds`; local roots only, as an object store can't say."""
    try:
        with _validation_lock(lake, ds, timeout=0):
            return False
    except filelock.Timeout:
        return True


def _validation_lock(lake: Lakehouse, ds: date, timeout: float) -> filelock.BaseFileLock:
    return filelock.FileLock(Path(lake.own_folder("days")) / f"{ds}.validating.lock", timeout=timeout)
