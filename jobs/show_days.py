"""show_days: how did the last days go? A line a day: how far it got, what was published, what was delivered, what the gates said.

Reads runs, deliveries, audits and promotions, small tables all of them; writes nothing, not even the ledger.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from rich.table import Table
from rich.text import Text

from jobs import DAILY_STAGES, TOKEN_STAGES
from jobs.context import Context
from jobs.delivery_gates import RUNNING
from jobs.delta_tables import on_days
from jobs.ledger_rows import drift_counts, of_version
from jobs.registered_tokenizers import promoted_version
from jobs.show_status import COLOURS, CUT_SHORT, OLD, THROUGH, VERBS, StageStatus, judged_audit, last_rows, marked_old, stage_status, validation_told
from schemas.audits import AUDITS
from schemas.keys import Days

SHOWN = 30
MISSING = "missing"  # no stage of the day was run
TROUBLED = ("refused", "failed", "blocked", CUT_SHORT)


@dataclass(frozen=True, kw_only=True, slots=True)
class DayLine:
    """One day. The stage is the first that stands in the way, or the last that is through."""

    ds: date
    stage: str | None  # None: nothing was run
    status: str  # as `u2qt status --ds` has it, or missing
    users_published: int | None  # by the newest publish that was done; None: never
    tokenizer_version: str | None  # of that publish
    rows_in: int | None  # None: nothing was delivered
    quarantined: int | None
    drift_warned: int  # gates, in the newest audit
    drift_blocked: int
    seconds: float  # of each stage's newest work; a chunk's are shared by its days

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)


def shown_days(runs: DataFrame, to: date | None) -> Days | None:
    """The last `SHOWN` days up to `to`, else up to the newest that a daily stage was run for; none before the oldest.

    A day far after all that was done, and only refused, is a slip of a finger.
    """
    daily = runs.where(F.col("stage").isin(list(DAILY_STAGES)) & F.col("ds_from").isNotNull())
    through = F.when(~F.col("status").isin("refused", "failed"), F.col("ds_to"))
    found = daily.agg(F.min("ds_from").alias("first"), F.max("ds_to").alias("last"), F.max(through).alias("through")).first()
    if found is None or found["first"] is None:
        return None
    last = to or found["last"]
    if to is None and found["through"] is not None and last - found["through"] > timedelta(days=SHOWN):
        near = F.col("ds_to") <= F.lit(found["through"] + timedelta(days=SHOWN))
        last = daily.where(near).agg(F.max("ds_to").alias("last")).collect()[0]["last"]
    first = max(found["first"], last - timedelta(days=SHOWN - 1))
    return Days(first, last) if first <= last else None


def worked_days(runs: DataFrame, days: Days) -> DataFrame:
    """The ledger with a row per day of `days` that it is of, as column `ds`."""
    inside = runs.where((F.col("ds_from") <= F.lit(days.last)) & (F.col("ds_to") >= F.lit(days.first)))
    worked = F.sequence(F.greatest("ds_from", F.lit(days.first)), F.least("ds_to", F.lit(days.last)))
    return inside.withColumn("ds", F.explode(worked))


def last_published(worked: DataFrame) -> DataFrame:
    """ds, tokenizer_version, rows (of user_tokens, as its sum text has them) of each day's newest publish that was done, less users forgotten since."""
    told = worked.where((F.col("stage") == "publish_tokens") & F.col("status").isin("done", "adjusted"))
    states = told.select("status", "started_at", "ds", F.explode(F.filter("states", lambda state: state["ds"] == F.col("ds"))).alias("state"))
    rows = F.split_part(F.col("state.outputs")["user_tokens"], F.lit(":"), F.lit(1)).cast("bigint")
    published = F.max(F.when(F.col("status") == "done", F.col("started_at"))).alias("published")
    versions = states.groupBy("ds", "state.tokenizer_version").agg(published, F.max_by(rows, "started_at").alias("rows"))
    newest = F.max_by(F.struct("tokenizer_version", "rows"), "published").alias("newest")
    return versions.where(F.col("published").isNotNull()).groupBy("ds").agg(newest).select("ds", "newest.*")


def furthest(stages: tuple[StageStatus, ...]) -> StageStatus | None:
    """The first stage that was tried and is not through, or the last one before the first that was not run."""
    last = None
    for stage in stages:
        if stage.status == "not run":
            return last
        last = stage
        if stage.status not in THROUGH:
            return last
    return last


def run(context: Context, to: date | None = None) -> tuple[DayLine, ...]:
    """Oldest first; empty where the ledger has no day up to `to`. Raises `BadInput` only where there is no lakehouse."""
    lake = context.lake
    return day_lines(lake.read("runs"), lake.read("deliveries"), lake.read_declared(AUDITS), to, promoted_version(context))


def day_lines(runs: DataFrame, deliveries: DataFrame, audits: DataFrame, to: date | None, version: str | None) -> tuple[DayLine, ...]:
    """Under `version`; a day that it has no token stage of is shown under any. The driver sees a few rows per day."""
    days = shown_days(runs, to)
    if days is None:
        return ()
    worked = worked_days(runs, days)
    mine = of_version(worked, version)
    stages = _stages(mine, days)
    unknown = [ds for ds in days if not {*stages[ds]} & {*TOKEN_STAGES}]
    if unknown and version is not None:
        others = _stages(worked, days)
        stages |= {ds: others[ds] for ds in unknown}
    published = {row.ds: row for row in (*last_published(worked).collect(), *last_published(mine).collect())}
    outcomes = on_days(deliveries, days, "delivered_ds").groupBy("delivered_ds")
    counts = (F.sum(name).alias(name) for name in ("rows_in", "quarantined"))
    delivered = {row.delivered_ds: row for row in outcomes.agg(*counts, F.bool_or(F.col("gate") == RUNNING).alias("running")).collect()}
    newest = F.max_by(F.struct("success", "drift", "drift_blocked"), F.struct(F.col("tokenizer_version") == F.lit(version), "audited_at")).alias("newest")
    audited = {row.ds: row.newest for row in on_days(audits, days).groupBy("ds").agg(newest).collect()}
    return tuple(_line(ds, stages[ds], published.get(ds), delivered.get(ds), audited.get(ds)) for ds in days)


def _stages(worked: DataFrame, days: Days) -> dict[date, dict[str, StageStatus]]:
    stages: dict[date, dict[str, StageStatus]] = {ds: {} for ds in days}
    for row in last_rows(worked.where("status <> 'adjusted'"), "ds").collect():
        stages[row.ds][row.stage] = stage_status(row)
    return stages


def _line(ds: date, stages: Mapping[str, StageStatus], published: Row | None, delivered: Row | None, audit: Row | None) -> DayLine:
    judged = judged_audit(dict(stages), blocked=bool(audit and audit.success and audit.drift_blocked))
    stage = furthest(marked_old(validation_told(judged, running=bool(delivered and delivered.running))))
    warned, blocked = drift_counts(audit.drift) if audit else (0, 0)
    return DayLine(
        ds=ds,
        stage=stage.stage if stage else None,
        status=stage.status if stage else MISSING,
        users_published=published.rows if published else None,
        tokenizer_version=published.tokenizer_version if published else None,
        rows_in=delivered.rows_in if delivered else None,
        quarantined=delivered.quarantined if delivered else None,
        drift_warned=warned,
        drift_blocked=blocked,
        seconds=round(sum(s.seconds / s.days for s in stages.values() if s.stage in DAILY_STAGES), 1),
    )


def render(lines: tuple[DayLine, ...]) -> Table:
    """100 columns at most, whatever the figures."""
    table = Table("day", "stage", "status", "users", "rows in", "quarantined", "warned", "blocked", "seconds", box=None, pad_edge=False)
    for column in table.columns[3:]:
        column.justify = "right"
    for line in lines:
        status = Text("old" if line.status == OLD else line.status, style="red" if line.status == MISSING else COLOURS.get(line.status, "dim"))
        figures = (line.users_published, line.rows_in, line.quarantined, line.drift_warned or None, line.drift_blocked or None)
        shown = ("–" if figure is None else f"{figure:,}" for figure in figures)
        table.add_row(str(line.ds), VERBS[line.stage] if line.stage else "", status, *shown, f"{line.seconds:,.0f}")
    return table
