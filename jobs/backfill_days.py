"""backfill_days: carries out a plan, oldest day first, some days at once. Run again after an interruption, it goes on.

Validations that were cut short come before all else: no day that their rows belong to can be built until they end.

Neighbouring days that need the same stages, under the same cutoff, go through them together, at most `days_at_once` of
them. Stages that the plan does not name are not run: so a day of an older tokenizer, whose features a late row changed,
is not encoded by the promoted one. Each stage of a chunk is a run of that stage: its ledger rows, locks and checks are
the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime

from jobs import audit_tokens, build_user_features, encode_users, plan_days, publish_tokens, validate_sources
from jobs.context import Context
from jobs.day_states import runs_of_days
from jobs.errors import BadInput, GateRefused
from jobs.registered_tokenizers import promoted_version
from schemas import keys
from schemas.errors import SchemaError
from schemas.keys import Days

DAYS_AT_ONCE = 7
PASSES = 3  # validations that were cut short; what is due then; what its validations and first builds find: late rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Days that go through `stages` together."""

    days: Days
    stages: tuple[str, ...]
    cutoff: datetime | None = None


def chunks(entries: list[plan_days.Entry], days_at_once: int) -> list[Chunk]:
    """Oldest first; every planned day is in exactly one."""
    needs: dict[date, tuple[tuple[str, ...], datetime | None]] = {}
    for entry in entries:
        stages, cutoff = needs.get(entry.ds, ((), None))
        needs[entry.ds] = ((*stages, entry.stage), cutoff or entry.cutoff)
    found = []
    for need in dict.fromkeys(needs.values()):
        for days in runs_of_days(ds for ds in needs if needs[ds] == need):
            found += [Chunk(days=part, stages=need[0], cutoff=need[1]) for part in _cut(days, days_at_once)]
    return sorted(found, key=lambda chunk: chunk.days.first)


def run_ids(run_id: str) -> tuple[str, ...]:
    """Of the passes of a backfill."""
    return (run_id, *(f"{run_id}-{number}" for number in range(2, PASSES + 1)))


def run(
    context: Context,
    days: Days,
    version: str | None = None,
    *,
    cutoff: datetime | None = None,
    days_at_once: int = DAYS_AT_ONCE,
    tell: Callable[[Chunk, int, int], None] = lambda chunk, number, total: None,
) -> int:
    """Days worked on. An error of a stage ends it; what was done before stands, and the next backfill starts there.

    A gate's refusal holds up its own day alone: a chunk that is refused goes day by day, the other chunks go on, and `GateRefused` with
    every refusal is raised in the end.

    Each pass has a run id of its own, `run_id-2` from the second on: a day that two passes publish keeps the rows of the first.
    """
    worked: set[date] = set()
    refused: dict[date, str] = {}
    check_run_id(context.run_id)
    named = version or promoted_version(context)  # once: a promotion meanwhile is for the next backfill
    for done in range(PASSES):
        passing = replace(context, run_id=run_ids(context.run_id)[done])
        entries = [entry for entry in plan_days.run(passing, days, version, cutoff) if entry.ds not in refused]
        cut_short = [entry for entry in entries if entry.reason == plan_days.CUT_SHORT]
        planned = chunks(cut_short or entries, days_at_once)
        for number, chunk in enumerate(planned, start=1):
            tell(chunk, number, len(planned))
            refused |= refusals(passing, chunk, named)
            worked |= {*chunk.days}
        if not any(_may_find_more(chunk) for chunk in planned):
            break
    if refused:
        raise GateRefused("\n".join(dict.fromkeys(refused[ds] for ds in sorted(refused))))
    return len(worked)


def _may_find_more(chunk: Chunk) -> bool:
    """Late rows of a day are known when others are validated, and planned when the day was built."""
    return validate_sources.STAGE in chunk.stages or (build_user_features.STAGE in chunk.stages and chunk.cutoff is None)


def check_run_id(run_id: str) -> None:
    """Raises `BadInput` where the run ids of later passes would be too long for one."""
    try:
        keys.version(run_ids(run_id)[-1])
    except SchemaError:
        longest = len(run_id) - len(run_ids(run_id)[-1]) + 63
        raise BadInput(f"--run-id {run_id}: found {len(run_id)} characters, expected at most {longest}, as later passes add a number") from None


def refusals(context: Context, chunk: Chunk, version: str | None) -> dict[date, str]:
    """The days that a gate refused, with its words; the others are done. The days of a refused chunk are done one by one."""
    try:
        run_chunk(context, chunk, version)
    except GateRefused as refusal:
        if len(chunk.days) == 1:
            return {chunk.days.first: str(refusal)}
        return {day: said for ds in chunk.days for day, said in refusals(context, replace(chunk, days=Days(ds, ds)), version).items()}
    return {}


def run_chunk(context: Context, chunk: Chunk, version: str | None) -> None:
    """The stages that are due, in their order; one whose input turned out the same skips itself."""
    stages: dict[str, Callable[[], None]] = {
        "validate_sources": lambda: validate_sources.run(context, chunk.days),
        "build_user_features": lambda: build_user_features.run(context, chunk.days, chunk.cutoff),
        "encode_users": lambda: encode_users.run(context, chunk.days, version),
        "audit_tokens": lambda: audit_tokens.run(context, chunk.days, version),
        "publish_tokens": lambda: publish_tokens.run(context, chunk.days, version),
    }
    for stage in chunk.stages:
        stages[stage]()


def _cut(days: Days, size: int) -> Iterator[Days]:
    every = list(days)
    for start in range(0, len(every), size):
        part = every[start : start + size]
        yield Days(part[0], part[-1])
