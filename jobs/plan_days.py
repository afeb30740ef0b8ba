"""plan_days: which stages of which days are missing, failed or stale, and why. `u2qt plan` shows it, `u2qt backfill` does it.

Reads the ledger, deliveries and the sums of clean rows and features; writes nothing. Raw input is not read: a delivery
that came again is known once it is validated. What a retention removed is not due. Cost: one pass over narrow columns of
the clean rows and features of the days; the driver sees one row per day, source and stage.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import date, datetime

from pyspark.sql import functions as F

from jobs import DAILY_STAGES, TOKEN_STAGES, audit_tokens, available_rows, retention, validate_sources
from jobs.context import Context
from jobs.day_states import NOTHING, Attempt, DayState, last_attempts, last_done, runs_of_days, sum_text, summed, sums_by_day
from jobs.delta_tables import Where, on_days
from jobs.gate_release import accepted_days
from jobs.registered_tokenizers import Registered, find_registered
from jobs.staged_files import NO_FILES, staged_files
from schemas.keys import Days

OUTPUT_ROWS = dict(zip(DAILY_STAGES, ("rows_in", "user_features", "staged_user_tokens", "staged_user_tokens", "user_tokens"), strict=True))
CUT_SHORT = "was cut short"
LEDGER_ROWS = 50  # newest rows of a stage that its time is estimated from


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A stage of a day that has to run.

    `rows`: the day's own, raw ones to validate, else users, as they are now; where there are none yet, the ledger's mean of a day.
    `seconds`: the ledger's mean of a day.
    """

    ds: date
    stage: str
    reason: str
    rows: int | None = None
    seconds: float | None = None
    cutoff: datetime | None = None  # for build_user_features: up to when its rows may know


def run(context: Context, days: Days, version: str | None = None, cutoff: datetime | None = None) -> list[Entry]:
    """Entries by day, then in the order of the stages.

    Rows known by `cutoff` count as late where a day doesn't have them yet; by default those known at the end of the last
    validated day and its delivery lag. A named `version` asks for its tokens of every day; without it days that some
    version has published are left as they are.
    """
    registered = find_registered(context, version)
    attempts = {stage: last_attempts(context, stage, days, registered.version if stage in TOKEN_STAGES else None) for stage in DAILY_STAGES}
    last = _last_delivered(context)
    known_by = cutoff or (available_rows.default_cutoff(context.catalog, last) if last else None)
    built = last_done(context, "build_user_features", days)
    now = _Now(
        registered=registered,
        attempts=attempts,
        clean_rows=validate_sources.clean_rows_definition(context.catalog),
        gate=audit_tokens.gate_definition(context, registered),
        available=_Available(context, days, known_by, built),
        features=sums_by_day(on_days(context.lake.read("user_features"), days), days),
        published=_published_rows(context, days, registered.version),
        staged=staged_files(context, days, registered.version, context.lake.version("staged_user_tokens")),
        running=_running_days(context, days),
        accepted=set(accepted_days(context, days, registered)),
    )
    elsewhere = set() if version is not None else _published_days(context, days)
    settled = _settled(context, days, now.features)
    entries: list[Entry] = []
    for ds in days:
        found = _of_day(now, ds, [stage for stage in DAILY_STAGES if stage not in settled[ds] or (stage == validate_sources.STAGE and ds in now.running)])
        if ds in elsewhere and not now.published[ds] and not any(ds in now.attempts[stage] for stage in TOKEN_STAGES):
            found = [entry for entry in found if entry.stage not in TOKEN_STAGES]
        entries += found
    delivered, users = _delivered_rows(context, days), {ds: _count(now.features[ds]) for ds in days}
    own = {stage: delivered if stage == validate_sources.STAGE else users for stage in DAILY_STAGES}
    return [replace(e, rows=own[e.stage].get(e.ds) or e.rows) for e in _estimated(context, entries)]


def _settled(context: Context, days: Days, features: Mapping[date, str]) -> dict[date, tuple[str, ...]]:
    """Stages of each day that are not planned, because a retention removed what they read or wrote."""
    removed = retention.removed_through(context)
    sources, rows, tokens = retention.sources_gone(context, removed), removed.get("user_features"), removed.get("user_tokens")
    settled: dict[date, tuple[str, ...]] = {}
    for ds in days:
        no_rows = rows is not None and ds <= rows and features[ds] == NOTHING
        stages = DAILY_STAGES[:2] if sources is not None and ds <= sources else DAILY_STAGES[1:2] if no_rows else ()
        settled[ds] = (*stages, *(TOKEN_STAGES if no_rows or (tokens is not None and ds <= tokens) else ()))
    return settled


@dataclass(frozen=True, kw_only=True, slots=True)
class _Now:
    """The days as the ledger has them, beside what the tables and definitions are now."""

    registered: Registered
    attempts: Mapping[str, Mapping[date, Attempt]]
    clean_rows: str  # definition
    gate: str  # definition of the audit
    available: "_Available"
    features: Mapping[date, str]  # sums
    published: Mapping[date, int]  # rows
    staged: Mapping[date, str]  # files
    running: Set[date]  # of delivery, whose validation began and did not end
    accepted: Set[date]  # blocked by the gates, and published with a person's reason

    def done(self, stage: str, ds: date) -> DayState | None:
        attempt = self.attempts[stage].get(ds)
        return attempt.state if attempt is not None and attempt.status == "done" else None


def _of_day(now: _Now, ds: date, planned: Sequence[str]) -> list[Entry]:
    entries: list[Entry] = []
    for stage in planned:
        late = now.available.late_cutoff(ds) if stage == "build_user_features" else None
        reason, cutoff = (f"{entries[-1].stage} comes first", late) if entries else _reason(now, stage, ds)
        if reason:
            entries.append(Entry(ds=ds, stage=stage, reason=reason, cutoff=cutoff))
    return entries


def _reason(now: _Now, stage: str, ds: date) -> tuple[str, datetime | None]:
    """Why the stage is due although those before it are not, and the cutoff to build by; an empty reason where it is not due."""
    state, attempt = now.done(stage, ds), now.attempts[stage].get(ds)
    if stage == "validate_sources" and ds in now.running:
        return CUT_SHORT, None
    if stage == "audit_tokens" and ds in now.accepted:
        return "", None
    if stage == "audit_tokens" and _published_since(now, ds, attempt):
        return "", None
    if attempt is None:
        return f"not yet encoded by {now.registered.version}" if stage == "encode_users" else "never ran", None
    if state is None:
        return {"failed": "failed", "refused": "was refused"}[attempt.status], now.available.late_cutoff(ds) if stage == "build_user_features" else None
    if stage == "build_user_features":
        return now.available.reason(ds, state, now.features[ds])
    if stage == "encode_users":
        return _difference(state, now.registered.fingerprint, {"user_features": now.features[ds]}) or _unstaged(now, ds, state), None
    if stage == "audit_tokens":
        return _audited_reason(now, ds, state), None
    if stage == "publish_tokens":
        return _published_reason(now, ds, state), None
    return _difference(state, now.clean_rows, state.inputs), None


def _unstaged(now: _Now, ds: date, encoded: DayState) -> str:
    """Why a day whose staged rows a retention took has to be encoded again: what reads them is due."""
    if now.staged[ds] != NO_FILES or encoded.outputs.get("staged_user_tokens", NOTHING) == NOTHING:
        return ""
    return "its staged rows are gone" if any(_reason(now, stage, ds)[0] for stage in ("audit_tokens", "publish_tokens")) else ""


def _audited_reason(now: _Now, ds: date, state: DayState) -> str:
    """An audit is of the day's features and of files: of those that are still to be published. What is published may have left the stage."""
    published = now.done("publish_tokens", ds)
    to_publish = published is None or _published_reason(now, ds, published)
    files = now.staged[ds] if to_publish else state.inputs["staged_user_tokens"]
    return _difference(state, now.gate, {"user_features": now.features[ds], "staged_user_tokens": files})


def _published_since(now: _Now, ds: date, audit: Attempt | None) -> bool:
    """Whether an audit that didn't pass is over, for the day was published with a person's reason; its staged rows may be gone since."""
    published, state = now.attempts["publish_tokens"].get(ds), now.done("publish_tokens", ds)
    if audit is None or audit.status == "done" or published is None or state is None:
        return False
    return published.started_at > audit.started_at and not _published_reason(now, ds, state)


def _published_reason(now: _Now, ds: date, state: DayState) -> str:
    encoded = now.done("encode_users", ds)
    reason = _difference(state, now.registered.fingerprint, (encoded or state).outputs)
    if reason or _count(state.outputs["user_tokens"]) == now.published[ds]:
        return reason
    return f"{now.published[ds]:,} rows published, it wrote others"


def _difference(state: DayState, definition: str, inputs: Mapping[str, str]) -> str:
    return state.difference(replace(state, definition=definition, inputs=inputs))


class _Available:
    """The clean rows of each day that its features know, and those that came later. Two passes over narrow columns."""

    def __init__(self, context: Context, days: Days, known_by: datetime | None, built: Mapping[date, DayState]) -> None:
        self.known_by = known_by
        self.definition = available_rows.features_definition(context.catalog)
        self.now: dict[tuple[date, str], str] = {}
        self.late: dict[date, int] = {}
        cutoffs = {ds: built[ds].cutoff if ds in built else None for ds in days}
        for moment in dict.fromkeys(cutoffs.values()):
            for part in runs_of_days(ds for ds in days if cutoffs[ds] == moment):
                self._look(context, part, moment)

    def _look(self, context: Context, days: Days, given: datetime | None) -> None:
        known = available_rows.cutoff(context.catalog, given)
        for row in available_rows.available_sums(context, days, known, {}).collect():
            self.now[row["ds"], row["source"]] = sum_text(row)
        if self.known_by is None:
            return
        for source in context.catalog.events:
            rows = on_days(available_rows.passed_rows(context, source, {}), days).select("ds", "available_time", "row_hash")
            later = rows.where((F.col("available_time") > known) & (F.col("available_time") <= F.lit(self.known_by.isoformat()).cast("timestamp")))
            for row in summed(later, "ds").collect():
                self.late[row["ds"]] = self.late.get(row["ds"], 0) + row["rows"]

    def late_cutoff(self, ds: date) -> datetime | None:
        """The cutoff to build the day by, where rows came too late for the one that it has."""
        return self.known_by if self.late.get(ds) else None

    def reason(self, ds: date, state: DayState, features: str) -> tuple[str, datetime | None]:
        now = {source: self.now.get((ds, source), NOTHING) for source in state.inputs}
        changed = state.difference(replace(state, definition=self.definition, inputs=now, outputs={"user_features": features}))
        cutoff = self.late_cutoff(ds)
        return (f"{self.late[ds]:,} late rows since", cutoff) if cutoff else (changed, None)


def _last_delivered(context: Context) -> date | None:
    row = context.lake.read("deliveries").where((F.col("rows_in") > 0) & (F.col("gate") == "passed")).agg(F.max("delivered_ds").alias("last")).first()
    return row["last"] if row else None


def _running_days(context: Context, days: Days) -> set[date]:
    rows = on_days(context.lake.read("deliveries"), days, "delivered_ds").where(F.col("gate") == "running")
    return {row.delivered_ds for row in rows.select("delivered_ds").distinct().collect()}


def _delivered_rows(context: Context, days: Days) -> dict[date, int]:
    rows = on_days(context.lake.read("deliveries"), days, "delivered_ds").groupBy("delivered_ds").agg(F.sum("rows_in").alias("rows"))
    return {row["delivered_ds"]: row["rows"] for row in rows.collect()}


def _count(text: str) -> int:
    """The rows of a sum's text."""
    return int(text.partition(":")[0])


def _published_rows(context: Context, days: Days, version: str) -> dict[date, int]:
    """Rows of each day in Delta's own statistics: no data is read."""
    rows = dict.fromkeys(days, 0)
    for file in context.lake.active_files("user_tokens", context.lake.version("user_tokens"), Where(days=days, equals=(("tokenizer_version", version),))):
        rows[date.fromisoformat(file.partition["ds"])] += file.rows
    return rows


def _published_days(context: Context, days: Days) -> set[date]:
    return {row.ds for row in on_days(context.lake.read("user_tokens"), days).select("ds").distinct().collect()}


def _estimated(context: Context, entries: list[Entry]) -> list[Entry]:
    """Mean seconds of a day, and rows per day, over the stage's newest ledger rows that worked."""
    runs = context.lake.read("runs").where((F.col("status") == "done") & F.col("ds_from").isNotNull())
    per_stage: dict[str, tuple[float, int]] = {}
    for stage in {entry.stage for entry in entries}:
        rows = runs.where(F.col("stage") == stage).orderBy(F.col("started_at").desc()).limit(LEDGER_ROWS)
        days = F.sum(F.datediff("ds_to", "ds_from") + 1)
        total = rows.agg(days.alias("days"), F.sum("seconds").alias("seconds"), F.sum(F.col("rows")[OUTPUT_ROWS[stage]]).alias("rows")).first()
        if total is not None and total["days"]:
            per_stage[stage] = (total["seconds"] / total["days"], round((total["rows"] or 0) / total["days"]))
    return [replace(e, seconds=per_stage[e.stage][0], rows=per_stage[e.stage][1]) if e.stage in per_stage else e for e in entries]
