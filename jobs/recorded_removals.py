"""Days that were whole before rows were taken away on purpose are whole afterwards: the ledger's states are told.

Without this every stage would find that its rows are no longer those it wrote, and work days again that nothing is wrong with.
A day that was not as its last run had left it stays so. Audits are carried over to the stage's new version where they were of
exactly the staged files: what held for all rows of a day holds for those that are left. So does a person's reason to publish a day.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from pyspark.sql import functions as F

from jobs import audit_tokens, build_user_features, encode_users, publish_tokens, validate_sources
from jobs.available_rows import available_sums, cutoff
from jobs.context import Context
from jobs.day_states import DayState, recorded_states, runs_of_days
from jobs.delta_tables import Where, on_days
from jobs.gate_release import accepted_days, newest_audits
from jobs.ledger import record_stage
from jobs.registered_tokenizers import all_registered
from jobs.staged_files import NO_FILES, staged_files
from schemas.audits import AUDITS
from schemas.keys import Days

States = dict[date, DayState]
Look = Callable[[Days, States], States]
STAGED = "staged_user_tokens"
WHY = "rows of forgotten users are gone; the day stands on the others as before"


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeDays:
    """Days that stood, for one stage and version, as their last run had left them."""

    stage: str
    version: str | None
    days: tuple[date, ...]
    reasons: dict[str, str] = field(default_factory=dict)  # of publish_tokens: day -> why a person published it although a gate blocked it


def whole_days(context: Context, days: Days) -> list[WholeDays]:
    """Reads narrow columns of every table of the daily run on `days`; raw input is not read."""
    found, registered = [], {one.version: one for one in all_registered(context)}
    for (stage, version), look in _looks(context).items():
        known = recorded_states(context, stage, days, version)
        now = _now(look, known, known)
        whole = tuple(ds for ds in sorted(known) if not known[ds].difference(now[ds]))
        accepted = accepted_days(context, days, registered[version]) if stage == publish_tokens.STAGE and version and whole else {}
        reasons = {str(ds): reason for ds, reason in accepted.items() if ds in whole}
        found.append(WholeDays(stage=stage, version=version, days=whole, reasons=reasons))
    return [whole for whole in found if whole.days]


def record_again(context: Context, wholes: Iterable[WholeDays]) -> int:
    """States told of the removal. Those that were told before are equal already, so that a second call changes nothing."""
    looks, told = _looks(context), 0
    for whole in wholes:
        known = recorded_states(context, whole.stage, Days(whole.days[0], whole.days[-1]), whole.version)
        now = _now(looks[whole.stage, whole.version], known, (ds for ds in whole.days if ds in known))
        changed = {ds: state for ds, state in now.items() if known[ds].difference(state)}
        accepted = sorted(ds for ds in changed if str(ds) in whole.reasons)  # their audits were refused, and so are none of whole ones
        if whole.version is not None:
            _carry_audits(context, sorted(changed) if whole.stage == audit_tokens.STAGE else accepted, whole.version)
        for span in (*runs_of_days({*changed} - {*accepted}), *(Days(ds, ds) for ds in accepted)):
            with record_stage(context, whole.stage, span, version=whole.version) as record:
                record.status = "adjusted"
                record.notes["adjusted"] = WHY
                if str(span.first) in whole.reasons:
                    record.notes["accepted"] = whole.reasons[str(span.first)]
                record.states += [changed[ds] for ds in span]
        told += len(changed)
    return told


def _now(look: Look, known: States, days: Iterable[date]) -> States:
    return {ds: state for part in runs_of_days(days) for ds, state in look(part, known).items()}


def _looks(context: Context) -> dict[tuple[str, str | None], Look]:
    """Per stage (and version) a function that says what its days stand on now."""
    looks: dict[tuple[str, str | None], Look] = {
        (validate_sources.STAGE, None): lambda days, known: validate_sources.states(context, days, _raw_sums(days, known)),
        (build_user_features.STAGE, None): lambda days, known: _features(context, days, known),
    }
    for registered in all_registered(context):
        version = registered.version
        for stage, now in (
            (encode_users.STAGE, encode_users.states),
            (audit_tokens.STAGE, audit_tokens.states_now),
            (publish_tokens.STAGE, publish_tokens.states),
        ):
            looks[stage, version] = lambda days, known, r=registered, now=now: _with_stage(context, r.version, now(context, days, r), known)  # type: ignore[misc]
    return looks


def _with_stage(context: Context, version: str, now: States, known: States) -> States:
    """Staged rows that a retention took say nothing of a day: they count as they were recorded."""

    def kept(found: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, str]:
        return {name: recorded.get(name, text) if name == STAGED else text for name, text in found.items()}

    current = context.lake.version(STAGED)
    gone = {ds for part in runs_of_days(now) for ds, files in staged_files(context, part, version, current).items() if files == NO_FILES}
    return {
        ds: replace(state, inputs=kept(state.inputs, known[ds].inputs), outputs=kept(state.outputs, known[ds].outputs)) if ds in gone else state
        for ds, state in now.items()
    }


def _raw_sums(days: Days, known: States) -> dict[str, dict[date, str]]:
    """As they were recorded: nothing is taken from raw input."""
    sources = {source for ds in days for source in known[ds].inputs}
    return {source: {ds: known[ds].inputs[source] for ds in days if source in known[ds].inputs} for source in sources}


def _features(context: Context, days: Days, known: States) -> States:
    """Days with one cutoff are looked at together."""
    found: States = {}
    for given in dict.fromkeys(known[ds].cutoff for ds in days):
        for part in runs_of_days(ds for ds in days if known[ds].cutoff == given):
            sums = available_sums(context, part, cutoff(context.catalog, given), {}).collect()
            found |= build_user_features.states(context, part, given, {(row["ds"], row["source"]): row for row in sums}, None)
    return found


def _carry_audits(context: Context, days: list[date], version: str) -> None:
    """The last audit of each day, of the stage as it is now."""
    if not days:
        return
    current = context.lake.version(STAGED)
    rows = dict.fromkeys(days, 0)
    for file in context.lake.active_files(STAGED, current, Where(days=Days(days[0], days[-1]), equals=(("tokenizer_version", version),))):
        ds = date.fromisoformat(file.partition["ds"])
        rows[ds] = rows.get(ds, 0) + file.rows
    files = staged_files(context, Days(days[0], days[-1]), version, current)
    audits = on_days(context.lake.read_declared(AUDITS), Days(days[0], days[-1])).where(F.col("tokenizer_version") == version)
    last = newest_audits(audits.where(F.col("ds").isin([ds for ds in days if files[ds] != NO_FILES])))  # of an empty stage an audit says nothing new
    changes = {"staged_version": current, "audited_at": datetime.now(UTC), "run_id": context.run_id}
    carried = [row.asDict() | changes | {"rows": rows[row.ds], "staged_files": files[row.ds]} for row in last]
    context.lake.append("audits", context.lake.frame(AUDITS, carried), {"run_id": context.run_id, "stage": audit_tokens.STAGE, "carried": WHY})
