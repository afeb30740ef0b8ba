"""show_status: where is that day? One screen: deliveries, stages, what is published, what to run next and why.

Reads deliveries, runs, audits, user_tokens, tokenizers and promotions; writes nothing, not even the ledger.
"""

from dataclasses import dataclass, replace
from datetime import date

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs import DAILY_STAGES, TOKEN_STAGES
from jobs.context import Context
from jobs.delta_tables import on_days
from jobs.ledger_rows import accepted_text, column_lines, days_worked, drift_lines, error_text, of_day, of_version
from jobs.registered_tokenizers import all_registered, promoted_version
from jobs.report_counts import delivery_totals
from schemas.audits import AUDITS
from schemas.deliveries import DELIVERIES
from schemas.keys import Days

VERBS = dict(zip(DAILY_STAGES, ("validate", "build", "encode", "audit", "publish"), strict=True))
OUTPUTS = {  # the hop that says how much a stage made
    "validate_sources": "rows_in",
    "build_user_features": "user_features",
    "encode_users": "staged_user_tokens",
    "audit_tokens": "staged_user_tokens",
    "publish_tokens": "user_tokens",
}
INPUTS = {  # stages whose later start makes a stage's result old
    "build_user_features": ("validate_sources", "replay_quarantine"),
    "encode_users": ("build_user_features",),
    "audit_tokens": ("encode_users",),
    "publish_tokens": ("audit_tokens",),
}
OLD = "older than its input"
CUT_SHORT = "not ended"  # a validation that announced itself: it runs, or was killed and has no row of that
THROUGH = ("done", "accepted")  # accepted: an audit that blocked, and a publish that released it with a reason
COLOURS = {"done": "green", "accepted": "yellow", "passed": "green", "refused": "red", "failed": "red", "blocked": "red", OLD: "yellow", CUT_SHORT: "red"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStatus:
    """What came of one source on the day of delivery."""

    source: str
    gate: str  # passed, blocked, running or not delivered
    rows_in: int = 0
    clean: int = 0
    quarantined: int = 0
    duplicates: int = 0
    forgotten: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStatus:
    """A stage's last row in the ledger for the day."""

    stage: str
    status: str  # done, refused, failed, not run, older than its input; an audit also blocked or accepted, a validation not ended
    started: str = ""  # UTC
    checked: str = ""  # UTC: when its last run began, also one that found nothing changed
    seconds: float = 0.0
    rows: int | None = None
    days: int = 1  # that the rows are of
    run_id: str = ""
    error: str = ""
    accepted: str = ""  # the reason with which a blocked day was published
    columns: tuple[str, ...] = ()  # what a validation found beside the declarations


@dataclass(frozen=True, kw_only=True, slots=True)
class Next:
    """What to do now: the commands in their order, and the reason."""

    sentence: str
    commands: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DayStatus:
    ds: date
    sources: tuple[SourceStatus, ...]
    stages: tuple[StageStatus, ...]
    published: tuple[tuple[str, int], ...]  # tokenizer version, rows
    registered: tuple[str, ...]
    promoted: str | None
    next: Next
    drift: tuple[str, ...] = ()  # of the newest audit: how the day differs from those before it


def last_rows(runs: DataFrame, *by: str) -> DataFrame:
    """The ledger's newest row of every stage (and of each of `by`) that did something, and when it was last looked at.

    A look at several days that failed did nothing, and says nothing of any one of them.
    """
    started = F.date_format("started_at", "yyyy-MM-dd HH:mm:ss.SSSSSS").alias("started")
    row = F.struct("status", "seconds", "rows", "run_id", "detail", days_worked(), started)
    order = F.struct("started_at", "run_id")
    of_no_day = F.coalesce(F.exists("states", lambda state: state["ds"].isNull()), F.lit(False))
    worked = F.max_by(row, F.when((F.col("status") != "skipped") & ~of_no_day, order)).alias("last")
    checked = F.date_format(F.max("started_at"), "yyyy-MM-dd HH:mm:ss.SSSSSS").alias("checked")
    return runs.groupBy(*by, "stage").agg(worked, checked).where(F.col("last").isNotNull()).select(*by, "stage", "last.*", "checked")


def marked_old(stages: dict[str, StageStatus]) -> tuple[StageStatus, ...]:
    """The day's stages in order; one that was done before its input was made again says so."""
    marked: list[StageStatus] = []
    for name in DAILY_STAGES:
        stage = stages.get(name, StageStatus(stage=name, status="not run"))
        inputs = [stages[i] for i in INPUTS.get(name, ()) if i in stages]
        older = any((stage.checked or stage.started) < i.started for i in inputs) or any(m.status == OLD for m in marked)
        if stage.status in (*THROUGH, "blocked") and older:
            stage = replace(stage, status=OLD)
        marked.append(stage)
    return tuple(marked)


def judged_audit(stages: dict[str, StageStatus], *, blocked: bool) -> dict[str, StageStatus]:
    """The stages, the audit's told apart: refused by its suite, `blocked` by the days before, or blocked and accepted since."""
    audit, publish = stages.get("audit_tokens"), stages.get("publish_tokens")
    if audit is None or audit.status != "refused" or not blocked:
        return stages
    accepted = publish is not None and publish.status == "done" and publish.accepted != "" and publish.started > audit.started
    return stages | {"audit_tokens": replace(audit, status="accepted" if accepted else "blocked")}


def validation_told(stages: dict[str, StageStatus], *, running: bool) -> dict[str, StageStatus]:
    """The stages; a validation that some source of the day is still `running` of has not ended, whatever the ledger knows of those before it."""
    validation = stages.get("validate_sources", StageStatus(stage="validate_sources", status="not run"))
    if not running or validation.status in ("refused", "failed"):
        return stages
    return stages | {"validate_sources": replace(validation, status=CUT_SHORT)}


def next_step(
    ds: date,
    stages: tuple[StageStatus, ...],
    *,
    blocked: tuple[str, ...] = (),
    published: tuple[tuple[str, int], ...] = (),
    registered: tuple[str, ...] = (),
    promoted: str | None = None,
    version: str | None = None,
) -> Next:
    """The first stage that stands in the way decides; a day that is through is shown to people. `version`: that the audit was of."""
    if all(stage.status == "not run" for stage in stages):
        verb = "run-day" if promoted else "validate"
        return Next(sentence="Nothing of this day was run.", commands=(f"u2qt {verb} --ds {ds}",))
    stage = next((stage for stage in stages if stage.status not in THROUGH), None)
    if stage is None:
        return _through(ds, published, promoted)
    if stage.status == "blocked":
        of = f" --tokenizer-version {version}" if version not in (None, promoted) else ""
        commands = (f"u2qt report --ds {ds}{of} --out {ds}.html", f"u2qt publish --ds {ds}{of} --accept REASON")
        return Next(sentence="The day is unlike the days before it; mend the cause, or release it.", commands=commands, why=stage.error)
    look: tuple[str, ...] = ()
    again = f"u2qt {VERBS[stage.stage]} --ds {ds}"
    sentence = {
        "refused": f"{stage.stage} was refused; mend the cause, then run it again.",
        "failed": f"{stage.stage} broke; the log of {stage.run_id} says where.",
        "not run": f"{stage.stage} comes next.",
        CUT_SHORT: f"{stage.stage} still runs, or was cut short: then half of a delivery may be there, and it has to be run again.",
    }.get(stage.status, f"{stage.stage} ran before its input was made again.")
    if stage.stage == "encode_users" and promoted is None:
        sentence, look = "No tokenizer is promoted.", _tokenizer(ds, registered)
    elif stage.stage == "validate_sources" and stage.status == "refused":
        look = tuple(f"u2qt quarantine show --source {source} --delivered-ds {ds}" for source in blocked)
    return Next(sentence=sentence, commands=(*look, again), why=stage.error)


def _tokenizer(ds: date, registered: tuple[str, ...]) -> tuple[str, ...]:
    if registered:
        return (f"u2qt tokenizer promote {registered[-1]}",)
    return (f"u2qt train --from FIRST_DAY --to {ds} --tokenizer-version v1", "u2qt tokenizer promote v1")


def _through(ds: date, published: tuple[tuple[str, int], ...], promoted: str | None) -> Next:
    versions = [version for version, _ in published]
    if promoted is None and versions:
        promote = f"u2qt tokenizer promote {versions[-1]}"
        return Next(sentence="Published, but no tokenizer is promoted.", commands=(promote,))
    if promoted not in versions:
        sentence = f"Every stage is done, but {promoted or 'a tokenizer'} has no published rows of this day."
        commands = tuple(f"u2qt {verb} --ds {ds}" for verb in ("encode", "audit", "publish"))
        return Next(sentence=sentence, commands=commands)
    return Next(sentence="Published; nothing is left to run.", commands=(f"u2qt report --ds {ds} --out {ds}.html",))


def run(context: Context, ds: date) -> DayStatus:
    """Raises `BadInput` only where there is no lakehouse; a day without anything has a status like any other.

    Token stages are those under the promoted version; of any version where it has none of this day.
    """
    day, lake = Days(ds, ds), context.lake
    totals = delivery_totals(on_days(lake.read_declared(DELIVERIES), day, "delivered_ds"))
    delivered = {row.source: row.asDict() for row in totals.collect()}
    sources = tuple(_source(s.name, delivered.get(s.name)) for s in context.catalog.sources)
    registered, promoted = tuple(r.version for r in all_registered(context)), promoted_version(context)
    ran = of_day(lake.read("runs"), ds)
    worked, version = _stages(of_version(ran, promoted)), promoted
    if not {*worked} & {*TOKEN_STAGES}:  # of another version's day there is at least that
        worked, version = _stages(ran), None
    audits = on_days(lake.read_declared(AUDITS), day).where(F.lit(version is None) | (F.col("tokenizer_version") == F.lit(version)))
    audit = audits.agg(F.max_by(F.struct("success", "drift", "drift_blocked", "tokenizer_version"), "audited_at").alias("newest")).first()
    newest = audit["newest"] if audit else None
    judged = judged_audit(worked, blocked=bool(newest and newest.success and newest.drift_blocked))
    stages = marked_old(validation_told(judged, running=any(s.gate == "running" for s in sources)))
    tokens = on_days(lake.read("user_tokens"), day).groupBy("tokenizer_version").count()
    published = tuple((row["tokenizer_version"], row["count"]) for row in tokens.orderBy("tokenizer_version").collect())
    blocked = tuple(s.source for s in sources if s.gate in ("blocked", "running"))
    step = next_step(
        ds, stages, blocked=blocked, published=published, registered=registered, promoted=promoted, version=newest.tokenizer_version if newest else None
    )
    return DayStatus(
        ds=ds,
        sources=sources,
        stages=stages,
        published=published,
        registered=registered,
        promoted=promoted,
        next=step,
        drift=drift_lines(newest.drift) if newest else (),
    )


def _source(name: str, delivered: dict[str, object] | None) -> SourceStatus:
    if delivered is None:
        return SourceStatus(source=name, gate="not delivered")
    counts = {outcome: int(str(delivered[outcome])) for outcome in ("rows_in", "clean", "quarantined", "duplicates", "forgotten")}
    return SourceStatus(source=name, gate="blocked" if delivered["blocked"] else "running" if delivered["running"] else "passed", **counts)


def _stages(runs: DataFrame) -> dict[str, StageStatus]:
    return {row.stage: stage_status(row) for row in last_rows(runs).collect()}


def stage_status(row: Row) -> StageStatus:
    """Of a row of `last_rows`."""
    return StageStatus(
        stage=row.stage,
        status=row.status,
        started=row.started,
        checked=row.checked,
        seconds=row.seconds,
        rows=row.rows.get(OUTPUTS.get(row.stage, "")),
        days=row.days,
        run_id=row.run_id or "",
        error=error_text(row.detail),
        accepted=accepted_text(row.detail),
        columns=column_lines(row.detail),
    )


def render(status: DayStatus) -> RenderableType:
    """One screen of 100 columns; every outside text is plain text, never markup."""
    return Group(
        Text(f"{status.ds}: {status.next.sentence}", style="bold"),
        "",
        _sources_table(status.sources),
        "",
        _stages_table(status.stages),
        "",
        *_published_lines(status),
        *(Text(f"noted: {line}", style="dim") for stage in status.stages for line in stage.columns),
        *(Text(f"drift: {line}", style=COLOURS["blocked"] if line.startswith("block ") else "dim") for line in status.drift),
        *([Text(status.next.why, style="red")] if status.next.why else []),
        Text("next:"),
        *(Text(f"  {command}", no_wrap=True, overflow="ignore") for command in status.next.commands),
    )


def _sources_table(sources: tuple[SourceStatus, ...]) -> Table:
    table = Table("source", "rows in", "clean", "quarantined", "duplicates", "forgotten", "gate", box=None, pad_edge=False)
    for column in table.columns[1:6]:
        column.justify = "right"
    for s in sources:
        outcomes = (s.rows_in, s.clean, s.quarantined, s.duplicates, s.forgotten)
        numbers = (f"{n:,}" for n in outcomes) if s.gate != "not delivered" else ("",) * len(outcomes)
        table.add_row(s.source, *numbers, _coloured(s.gate))
    return table


def _stages_table(stages: tuple[StageStatus, ...]) -> Table:
    table = Table("stage", "last", "rows", "seconds", "started (UTC)", "run", box=None, pad_edge=False)
    for column in table.columns[2:4]:
        column.justify = "right"
    for stage in stages:
        rows = "" if stage.rows is None else f"{stage.rows:,}" + (f" ({stage.days} days)" if stage.days > 1 else "")
        seconds = f"{stage.seconds:.1f}" if stage.run_id else ""
        cells = (rows, seconds, stage.started[:19], stage.run_id)
        table.add_row(stage.stage, _coloured(stage.status), *(Text(cell) for cell in cells))
    return table


def _published_lines(status: DayStatus) -> list[Text]:
    if not status.published:
        return [Text("published: nothing")]
    promoted = {version: " (promoted)" if version == status.promoted else "" for version, _ in status.published}
    return [Text(f"published: {rows:,} users with {version}{promoted[version]}") for version, rows in status.published]


def _coloured(word: str) -> Text:
    return Text(word, style=COLOURS.get(word, "dim"))
