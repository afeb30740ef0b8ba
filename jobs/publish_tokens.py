"""publish_tokens: the audited rows of a day become visible, in one atomic commit.

Reads audits and exactly the audited version of staged_user_tokens; writes user_tokens_superseded, then user_tokens.
Key: user_id, ds, tokenizer_version. Idempotent on (ds, tokenizer_version): publishing again gives the same rows. A row that
did not change keeps the moment from which it was known (`available_at`); one that did is never known from earlier on. A day
whose published rows already say what the stage says is skipped.
"""

from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from jobs.available_rows import known_from_publish
from jobs.changed_days import changed_days
from jobs.context import Context
from jobs.day_states import DayState, sums_by_day, tokens_hash
from jobs.delta_tables import Where, on_days
from jobs.errors import BadInput, GateRefused
from jobs.gate_release import accepted_days, newest_audits, require_passed, require_reason
from jobs.ledger import StageRecord, record_stage, versions_read
from jobs.registered_tokenizers import Registered, find_registered
from jobs.staged_files import staged_files
from jobs.work_units import write_tasks
from schemas.audits import AUDITS
from schemas.keys import Days
from schemas.user_tokens import codes_column

STAGE = "publish_tokens"
KEY = ("user_id", "ds", "tokenizer_version")
SAME = ("user_id", "ds", "row_hash")  # a user's behaviour, whatever its codes


def unchanged(sources: tuple[str, ...]) -> Column:
    """True where the old row `o` says the same of the user as the new row `n`."""
    same = F.col("o.row_hash") == F.col("n.row_hash")
    for source in sources:
        same = same & F.col(f"o.{codes_column(source)}").eqNullSafe(F.col(f"n.{codes_column(source)}"))
    return F.coalesce(same, F.lit(False))


@dataclass(frozen=True, kw_only=True, slots=True)
class Before:
    """What readers could know of the days before this publish."""

    rows: DataFrame  # published under the version
    superseded: DataFrame | None = None  # its rows that were replaced before, where there are any
    elsewhere: DataFrame | None = None  # published under other versions, where there are any
    rewritten: Set[date] = frozenset()  # more than late rows has changed since, so that a repair's cutoff says nothing of them


def published_rows(staged: DataFrame, before: Before, sources: tuple[str, ...], run_id: str, now: datetime) -> DataFrame:
    """The staged rows. One that was published before, unchanged, keeps its `available_at`; another row of a published day is known
    from its cutoff on where that is later than all that the day ever said, and otherwise from `now` on: whoever was to decide before saw the old row.

    For a day that the version has not published, other versions speak: what they say of a user's behaviour is known as long as they say it.
    """
    ever = before.rows.select("ds", "available_at")
    ever = ever if before.superseded is None else ever.unionByName(before.superseded.select("ds", "available_at"))
    said = ever.groupBy("ds").agg(F.max("available_at").alias("until"))
    joined = staged.alias("n").join(before.rows.alias("o"), on=[F.col(f"n.{key}") == F.col(f"o.{key}") for key in KEY], how="left")
    joined = joined.join(F.broadcast(said).alias("said"), on=F.col("n.ds") == F.col("said.ds"), how="left")
    until, same_elsewhere = F.col("said.until"), F.lit(None).cast("timestamp")
    if before.elsewhere is not None:
        same = before.elsewhere.groupBy(*SAME).agg(F.min("available_at").alias("known"))
        others = before.elsewhere.groupBy("ds").agg(F.max("available_at").alias("until"))
        joined = joined.join(same.alias("same"), on=[F.col(f"n.{key}") == F.col(f"same.{key}") for key in SAME], how="left")
        joined = joined.join(F.broadcast(others).alias("others"), on=F.col("n.ds") == F.col("others.ds"), how="left")
        same_elsewhere = F.when(until.isNull(), F.col("same.known"))
        until = F.coalesce(until, F.col("others.until"))
    from_now = F.greatest(F.lit(now.isoformat()).cast("timestamp"), until + F.expr("INTERVAL 1 MICROSECOND"))
    speaks = (until.isNull() | (F.col("n.available_at") > until)) & ~F.col("n.ds").isin([*before.rewritten])  # a day may have been published without rows
    changed = F.when(speaks, F.col("n.available_at")).otherwise(from_now)
    known = F.when(unchanged(sources), F.col("o.available_at")).otherwise(F.coalesce(same_elsewhere, changed))
    replaced = {"available_at": known, "run_id": F.lit(run_id)}
    return joined.select(*(replaced.get(name, F.col(f"n.{name}")).alias(name) for name in staged.columns))


def superseded_rows(staged: DataFrame, old: DataFrame, sources: tuple[str, ...], run_id: str) -> DataFrame:
    """The old rows that a repair changes or removes, marked with the run that does it."""
    joined = old.alias("o").join(staged.alias("n"), on=[F.col(f"n.{key}") == F.col(f"o.{key}") for key in KEY], how="left")
    return joined.where(~unchanged(sources)).select("o.*", F.lit(run_id).alias("superseded_by_run"))


def run(context: Context, days: Days, version: str | None = None, accept: str | None = None, *, force: bool = False) -> None:
    """Raises `GateRefused` for a day without a passing audit of the staged rows as they are.

    `accept` is a person's reason to publish one day that its audit found unlike the days before; no failed suite is released.
    """
    with record_stage(context, STAGE, days, version=version, only_errors=True):
        registered = find_registered(context, version)

    def describe(part: Days) -> dict[date, DayState]:
        with record_stage(context, STAGE, part, version=registered.version, only_errors=True) as record:
            _passing_audit(context, part, registered, record, accept)
        return states(context, part, registered)

    with changed_days(context, STAGE, days, describe, version=registered.version, force=force or accept is not None) as parts:  # a reason is to be kept
        for part in parts:
            _run(context, part, registered, accept)


def states(context: Context, days: Days, registered: Registered, staged: int | None = None, published: int | None = None) -> dict[date, DayState]:
    """The rows of the stage and those published, both with their codes."""
    row_hash = tokens_hash([source.name for source in context.catalog.sources]).alias("row_hash")
    sums: dict[str, dict[date, str]] = {}
    for table, version in (("staged_user_tokens", staged), ("user_tokens", published)):
        rows = on_days(context.lake.read(table, version), days).where(F.col("tokenizer_version") == registered.version)
        sums[table] = sums_by_day(rows.select("ds", row_hash), days)
    return {
        ds: DayState(
            ds=ds,
            definition=registered.fingerprint,
            inputs={"staged_user_tokens": sums["staged_user_tokens"][ds]},
            outputs={"user_tokens": sums["user_tokens"][ds]},
            tokenizer_version=registered.version,
        )
        for ds in days
    }


def _run(context: Context, days: Days, registered: Registered, accept: str | None) -> None:
    with record_stage(context, STAGE, days, version=registered.version) as record:
        audit = _passing_audit(context, days, registered, record, accept)
        staged = _audited_rows(context, days, registered, record)
        where = Where(days=days, equals=(("tokenizer_version", registered.version),))
        old_version = context.lake.version("user_tokens")
        old = context.lake.read("user_tokens", old_version)
        old = on_days(old, days).where(F.col("tokenizer_version") == registered.version)
        sources = tuple(s.name for s in context.catalog.sources)
        if context.lake.active_files("user_tokens", old_version, where):
            _recover_ledger(context, days, registered, old)
            superseded = superseded_rows(staged, old, sources, context.run_id)
            if not _published_by_this_run(context, days, superseded, old):
                _keep_superseded(context, superseded, where, record)
        tasks = write_tasks(len(days), context.spark.sparkContext.defaultParallelism)
        before = Before(
            rows=old,
            superseded=_superseded_before(context, days, registered),
            elsewhere=_elsewhere(context, days, registered, old_version),
            rewritten=known_from_publish(context, days),
        )
        rows = published_rows(staged, before, sources, context.run_id, datetime.now(UTC)).repartition(tasks, "ds").sortWithinPartitions("ds", "user_id")
        metadata = _metadata(context, days, registered, audit) | ({"accepted": accept} if accept is not None else {})
        record.written["user_tokens"] = context.lake.replace("user_tokens", rows, where, metadata)
        _reconcile(context, days, where, record)
        seen = states(context, days, registered, record.read["staged_user_tokens"], record.written["user_tokens"])
        record.states += seen.values()


def _superseded_before(context: Context, days: Days, registered: Registered) -> DataFrame | None:
    """The version's rows of the days that publishes replaced, or were about to."""
    version = context.lake.version("user_tokens_superseded")
    if not context.lake.active_files("user_tokens_superseded", version, Where(days=days, equals=(("tokenizer_version", registered.version),))):
        return None
    return on_days(context.lake.read("user_tokens_superseded", version), days).where(F.col("tokenizer_version") == registered.version)


def _elsewhere(context: Context, days: Days, registered: Registered, version: int) -> DataFrame | None:
    """The days' rows of other tokenizer versions, by the table's `version`."""
    files = context.lake.active_files("user_tokens", version, Where(days=days))
    if all(file.partition["tokenizer_version"] == registered.version for file in files):
        return None
    rows = on_days(context.lake.read("user_tokens", version), days).where(F.col("tokenizer_version") != registered.version)
    return rows.select(*SAME, "available_at")


def _passing_audit(context: Context, days: Days, registered: Registered, record: StageRecord, accept: str | None) -> Row:
    """The days' last audit, one for all of them, passed, of staged rows that have not changed since."""
    record.read["audits"] = context.lake.version("audits")
    audits = on_days(context.lake.read_declared(AUDITS, record.read["audits"]), days).where(F.col("tokenizer_version") == registered.version)
    last = newest_audits(audits)
    found = {row.ds: row for row in last}
    standing = accepted_days(context, days, registered) if accept is None and any(row.drift_blocked for row in last) else {}
    for ds in days:
        require_passed(ds, registered.version, found.get(ds), standing.get(ds, accept))
    if accept is not None:
        record.notes["accepted"] = require_reason(days, accept)
    record.read["staged_user_tokens"] = _require_unchanged(context, days, registered, found)
    return max(last, key=lambda row: row.staged_version)


def _require_unchanged(context: Context, days: Days, registered: Registered, audits: dict[object, Row]) -> int:
    """The stage's version now, whose files of the days are those audited. By the audits' own note of them: a table's log is not kept for ever."""
    current = context.lake.version("staged_user_tokens")
    files = staged_files(context, days, registered.version, current)
    for audit in audits.values():
        if audit.staged_files is None:
            again = f"run `u2qt audit --ds {audit.ds} --tokenizer-version {registered.version} --force`"
            raise GateRefused(f"publish {audit.ds}, {registered.version}: its audit is of an earlier release and doesn't name its files; {again}")
        if audit.staged_files != files[audit.ds]:
            raise GateRefused(
                f"publish {audit.ds}, {registered.version}: staged again (version {current}) since the audit of version "
                f"{audit.staged_version}; run `u2qt audit --ds {audit.ds} --tokenizer-version {registered.version}`"
            )
    return current


def _audited_rows(context: Context, days: Days, registered: Registered, record: StageRecord) -> DataFrame:
    """Of the version that was just checked."""
    rows = on_days(context.lake.read("staged_user_tokens", record.read["staged_user_tokens"]), days)
    return rows.where(F.col("tokenizer_version") == registered.version)


def _recover_ledger(context: Context, days: Days, registered: Registered, old: DataFrame) -> None:
    """A run that died between its commit and its ledger row did publish: said now, as its `run_id` goes with the rows that are replaced.

    Without it the rows which that run superseded would count as those of a run that never published.
    """
    done = on_days(context.lake.read("runs").select("run_id", "status", "stage", F.explode(F.sequence("ds_from", "ds_to")).alias("ds")), days)
    done = done.where((F.col("stage") == STAGE) & (F.col("status") == "done"))
    lost = old.select("ds", "run_id").distinct().join(done, on=["ds", "run_id"], how="left_anti").collect()
    for row in lost:  # of one partition each, so a few
        with record_stage(replace(context, run_id=row["run_id"]), STAGE, Days(row["ds"], row["ds"]), version=registered.version) as record:
            record.notes["recovered"] = f"its commit stands and its ledger row was lost; found by {context.run_id}"


def _published_by_this_run(context: Context, days: Days, superseded: DataFrame, old: DataFrame) -> bool:
    """Whether the run published one of the days before and died, or was called again: what it superseded then is kept under its name.

    Raises `BadInput` where it would have to supersede more.
    """
    mine = old.select("ds", "run_id").where(F.col("run_id") == F.lit(context.run_id))
    done = context.lake.read("runs").where((F.col("run_id") == F.lit(context.run_id)) & (F.col("status") == "done") & (F.col("stage") == STAGE))
    done = done.where((F.col("ds_from") <= F.lit(days.last)) & (F.col("ds_to") >= F.lit(days.first)))
    if mine.isEmpty() and done.isEmpty():
        return False
    if not superseded.isEmpty():
        raise BadInput(f"run id {context.run_id}: it published {days} before, and the rows that it replaced are kept by that name; give another --run-id")
    return True


def _keep_superseded(context: Context, rows: DataFrame, where: Where, record: StageRecord) -> None:
    """Written before the publish, and ignored by readers until that publish exists."""
    by_run = Where(days=where.days, equals=(*where.equals, ("superseded_by_run", context.run_id)))
    metadata = {"run_id": context.run_id, "stage": record.stage}
    version = context.lake.replace("user_tokens_superseded", rows.coalesce(1), by_run, metadata)
    record.written["user_tokens_superseded"] = version
    record.rows["superseded"] = sum(f.rows for f in context.lake.active_files("user_tokens_superseded", version, by_run))


def _metadata(context: Context, days: Days, registered: Registered, audit: Row) -> dict[str, object]:
    """What the commit says of itself: enough to trace a row back to its sources."""
    return {
        "run_id": context.run_id,
        "stage": STAGE,
        "tokenizer_version": registered.version,
        "fingerprint": registered.fingerprint,
        "suite_hash": audit.suite_hash,
        "staged_version": audit.staged_version,
        "sources": versions_read(context, "build_user_features", days),
        "user_features": versions_read(context, "encode_users", days).get("user_features"),
    }


def _reconcile(context: Context, days: Days, where: Where, record: StageRecord) -> None:
    published = sum(f.rows for f in context.lake.active_files("user_tokens", record.written["user_tokens"], where))
    staged = sum(f.rows for f in context.lake.active_files("staged_user_tokens", record.read["staged_user_tokens"], where))
    record.rows["staged_user_tokens"], record.rows["user_tokens"] = staged, published
    if published != staged:
        raise RuntimeError(f"user_tokens, {days}: published {published} rows, expected the {staged} audited ones")


if __name__ == "__main__":
    from jobs.cli import submit

    submit("publish")
