"""What a stage knew when it last finished a day, kept in the ledger, so that unchanged work is recognised.

A *sum* identifies a set of rows: their number and an order-free sum of `row_hash`, written "rows:sum". It is never a
table's version, which a compaction or a re-run that changes nothing moves on.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from jobs.context import Context
from schemas.keys import Days
from schemas.user_tokens import codes_column, hashed_columns

NOTHING = "0:0"
ATTEMPTED = ("done", "adjusted", "refused", "failed")  # skipped days were not worked on


@dataclass(frozen=True, kw_only=True, slots=True)
class DayState:
    """A day as a stage saw it: the meaning it worked by, what it read, what it wrote."""

    ds: date | None  # None: of no day, in a look at several that failed
    definition: str  # hash of what changes the meaning: columns, templates, rules; a tokenizer's fingerprint; a suite
    inputs: Mapping[str, str]  # table or source -> sum
    outputs: Mapping[str, str] = field(default_factory=dict)  # table -> sum
    cutoff: datetime | None = None  # given by a person; None is the catalog's
    tokenizer_version: str | None = None

    def difference(self, now: "DayState") -> str:
        """Why work recorded here must be done again for `now`; empty when nothing changed."""
        if self.definition != now.definition:
            return "definition changed"
        changed = sorted(name for name in {*self.inputs, *now.inputs} if self.inputs.get(name, NOTHING) != now.inputs.get(name, NOTHING))
        if changed:
            return f"rows changed in {', '.join(changed)}"
        changed = sorted(name for name in {*self.outputs, *now.outputs} if self.outputs.get(name, NOTHING) != now.outputs.get(name, NOTHING))
        return f"its own rows in {', '.join(changed)} are no longer those it wrote" if changed else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """The newest work of a stage on a day."""

    status: str  # done, refused or failed
    state: DayState  # empty where it was not done
    started_at: datetime


def definition_hash(*facts: Any) -> str:
    """16 hex digits over JSON-able facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def null_safe_hash(columns: Iterable[str], arrays: Iterable[str] = ()) -> Column:
    """xxhash64 that tells nulls apart, and where each of `arrays` (among `columns`) ends, which the plain function does not."""
    parts = [part for name in columns for part in (F.col(name), F.col(name).isNull())]
    return F.xxhash64(*parts, *(F.size(name) for name in arrays))


def tokens_hash(sources: Sequence[str]) -> Column:
    """The hash of a row of user_tokens or of its stage."""
    return null_safe_hash(hashed_columns(sources), [codes_column(source) for source in sources])


def summed(rows: DataFrame, *by: str, hash_column: str = "row_hash") -> DataFrame:
    """Columns `by`, rows BIGINT, hashes DECIMAL: what a sum is made of. The decimal holds 10^19 rows."""
    return rows.groupBy(*by).agg(F.count(F.lit(1)).alias("rows"), F.sum(F.col(hash_column).cast("decimal(38,0)")).alias("hashes"))


def sum_text(row: Row | None) -> str:
    return NOTHING if row is None or not row["rows"] else f"{row['rows']}:{row['hashes']}"


def sums_by_day(rows: DataFrame, days: Days, hash_column: str = "row_hash") -> dict[date, str]:
    """The sum of each of `days`; a day without rows has one too. The driver sees one row per day."""
    found = {row["ds"]: row for row in summed(rows, "ds", hash_column=hash_column).collect()}
    return {ds: sum_text(found.get(ds)) for ds in days}


def recorded_states(context: Context, stage: str, days: Days, version: str | None = None) -> dict[date, DayState]:
    """The days whose newest attempt by `stage` (under `version`) was done, with what it recorded."""
    return {ds: attempt.state for ds, attempt in last_attempts(context, stage, days, version).items() if attempt.status == "done"}


def last_done(context: Context, stage: str, days: Days, version: str | None = None) -> dict[date, DayState]:
    """What the newest attempt that was done recorded of each day, whatever failed since."""
    return {ds: attempt.state for ds, attempt in last_attempts(context, stage, days, version, statuses=("done", "adjusted")).items()}


def last_attempts(context: Context, stage: str, days: Days, version: str | None = None, *, statuses: Sequence[str] = ATTEMPTED) -> dict[date, Attempt]:
    """The newest attempt at each day by `stage` (under `version`), of those that ended as one of `statuses`."""
    attempts = ledger_days(context, stage, days, statuses)
    mine = F.filter("states", lambda s: (s["ds"] == F.col("ds")) & s["tokenizer_version"].eqNullSafe(F.lit(version)))
    attempts = attempts.withColumn("state", F.get(mine, F.lit(0))).where(F.col("state").isNotNull())
    newest = attempts.groupBy("ds").agg(F.max_by(F.struct("status", "started_at", "state.*"), "started_at").alias("last")).select("last.*")
    return {
        row.ds: Attempt(status="done" if row.status == "adjusted" else row.status, state=_state(row), started_at=row.started_at.astimezone(UTC))
        for row in newest.collect()
    }


def ledger_days(context: Context, stage: str, days: Days, statuses: Sequence[str] = ATTEMPTED) -> DataFrame:
    """One row per run of the stage and day of `days`: ds, status, started_at, seconds, states, detail, run_id."""
    ledger = context.lake.read("runs").where((F.col("stage") == stage) & F.col("status").isin(*statuses))
    ledger = ledger.where((F.col("ds_from") <= F.lit(days.last)) & (F.col("ds_to") >= F.lit(days.first)))
    worked = F.sequence(F.greatest("ds_from", F.lit(days.first)), F.least("ds_to", F.lit(days.last)))
    return ledger.select("status", "started_at", "seconds", "states", "detail", "run_id", F.explode(worked).alias("ds"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a published day stood on."""

    state: DayState  # of its features
    built_at: datetime  # when their build began


def built_when_published(context: Context, days: Days) -> dict[date, Published]:
    """What `build_user_features` had recorded of each published day when a version published it last; of several versions the one longest ago.

    A removal of users that told the features' state counts as that build, unless another build lies between.
    """
    publishes = ledger_days(context, "publish_tokens", days, ("done",))
    publishes = publishes.select("ds", "started_at", F.explode(F.filter("states", lambda s: s["ds"] == F.col("ds"))).alias("state"))
    newest = publishes.groupBy("ds", "state.tokenizer_version").agg(F.max("started_at").alias("published_at"))
    oldest = newest.groupBy("ds").agg(F.min("published_at").alias("published_at"))
    builds = ledger_days(context, "build_user_features", days, ("done", "adjusted")).join(oldest, on="ds", how="inner")
    builds = builds.withColumn("state", F.get(F.filter("states", lambda s: s["ds"] == F.col("ds")), F.lit(0)))
    unpublished = (
        builds.where((F.col("status") == "done") & (F.col("started_at") > F.col("published_at"))).groupBy("ds").agg(F.min("started_at").alias("since"))
    )
    told = (F.col("status") == "adjusted") & (F.col("since").isNull() | (F.col("started_at") < F.col("since")))
    known = builds.join(unpublished, on="ds", how="left").where(((F.col("started_at") <= F.col("published_at")) | told) & F.col("state").isNotNull())
    last = F.max_by(F.struct("status", "started_at", "state.*"), "started_at").alias("last")
    built = F.max(F.when(F.col("status") == "done", F.col("started_at"))).alias("built_at")
    rows = known.groupBy("ds").agg(last, built).where(F.col("built_at").isNotNull()).select("built_at", "last.*")
    return {row.ds: Published(state=_state(row), built_at=row.built_at.astimezone(UTC)) for row in rows.collect()}


def _state(row: Row) -> DayState:
    facts = row.asDict() | {"cutoff": row.cutoff and row.cutoff.astimezone(UTC)}  # collected in local time
    return DayState(**{name: facts[name] for name in DayState.__slots__})


def runs_of_days(days: Iterable[date]) -> list[Days]:
    """Days in ascending order as few ranges of days without a gap."""
    ranges: list[Days] = []
    for ds in sorted(days):
        if ranges and (ds - ranges[-1].last).days == 1:
            ranges[-1] = Days(ranges[-1].first, ds)
        else:
            ranges.append(Days(ds, ds))
    return ranges
