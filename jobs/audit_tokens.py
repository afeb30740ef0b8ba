"""audit_tokens: the gate. Evaluates the token suite on the written stage, compares it with the days before, records both.

Reads staged_user_tokens (its current version, pinned), user_features (row counts and hashes), and for the gates that compare
with earlier days user_tokens and deliveries; writes audits.
Key: ds, tokenizer_version, staged_version, run_id. Idempotent: another audit of the same version says the same.
A refusal exits 10, publishes nothing and leaves the stage as it is. A day that passed, and whose staged files and feature
rows are still those that were audited, is skipped.
"""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import partial

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs import drift_gates, quality, retention
from jobs.changed_days import changed_days
from jobs.context import Context
from jobs.day_states import DayState, definition_hash, last_done, runs_of_days, sum_text, summed
from jobs.delta_tables import Where, on_days
from jobs.drift_gates import DayDrift
from jobs.errors import BadInput, GateRefused
from jobs.gate_release import accepted_days
from jobs.ledger import StageRecord, record_stage
from jobs.registered_tokenizers import Registered, find_registered
from jobs.staged_files import staged_files
from schemas.audits import AUDITS
from schemas.deliveries import DELIVERIES
from schemas.keys import Days

STAGE = "audit_tokens"
SAMPLE = 5  # row hashes named per failing expectation


def mismatches(staged: Mapping[date, Row], features: Mapping[date, Row], days: Days) -> list[str]:
    """Days whose staged rows are not exactly the feature rows."""
    found = []
    for ds in days:
        ours, theirs = staged.get(ds), features.get(ds)
        if (ours and (ours.rows, ours.hashes)) != (theirs and (theirs.rows, theirs.hashes)):
            found.append(
                f"rows_equal_user_features, {ds}: {ours.rows if ours else 0} staged rows, {theirs.rows if theirs else 0} feature rows, or other contents"
            )
    return found


def run(context: Context, days: Days, version: str | None = None, *, force: bool = False) -> None:
    """Raises `GateRefused` naming every failing expectation with counts and sample row hashes, or every gate that blocked.

    Raises `BadInput` for a day that was never encoded.
    """
    with record_stage(context, STAGE, days, version=version, only_errors=True):
        registered = find_registered(context, version)
        retention.require_features(context, days)
    describe = partial(states_now, context, registered=registered)
    with changed_days(context, STAGE, days, describe, version=registered.version, force=force) as parts:
        accepted = {} if force or not parts else accepted_days(context, days, registered)
        for part in parts:
            for ds in {*part} & {*accepted}:
                with record_stage(context, STAGE, Days(ds, ds)) as record:
                    record.status = "skipped"
                    record.notes["skipped"] = f"a person published these very rows: {accepted[ds]}"
            for rest in runs_of_days({*part} - {*accepted}):
                _run(context, rest, registered, force=force)


def states_now(context: Context, days: Days, registered: Registered) -> dict[date, DayState]:
    """What the days' audits would stand on now."""
    features = on_days(context.lake.read("user_features"), days)
    sums = {row.ds: row for row in summed(features, "ds").collect()}
    return _states(context, days, registered, sums, context.lake.version("staged_user_tokens"))


def _states(context: Context, days: Days, registered: Registered, features: Mapping[date, Row], staged_version: int) -> dict[date, DayState]:
    """Staged files rather than sums: publishing needs an audit of exactly the files that it reads."""
    files = staged_files(context, days, registered.version, staged_version)
    definition = gate_definition(context, registered)
    return {
        ds: DayState(
            ds=ds,
            definition=definition,
            inputs={
                "user_features": sum_text(features.get(ds)),
                "staged_user_tokens": files[ds],
            },
            tokenizer_version=registered.version,
        )
        for ds in days
    }


def gate_definition(context: Context, registered: Registered) -> str:
    """Of the suite and of the thresholds against earlier days."""
    suite = quality.packaged_suite("user_tokens.json", registered.layout, rows=0)
    return definition_hash(suite.suite_hash, context.catalog.drift.model_dump(mode="json"))


def _run(context: Context, days: Days, registered: Registered, *, force: bool) -> None:
    with record_stage(context, STAGE, days, version=registered.version) as record:
        for table in ("staged_user_tokens", "user_features", "user_tokens", "deliveries"):
            record.read[table] = context.lake.version(table)
        staged = on_days(context.lake.read("staged_user_tokens", record.read["staged_user_tokens"]), days)
        staged = staged.where(F.col("tokenizer_version") == registered.version)
        counts = {row.ds: row for row in summed(staged, "ds").collect()}
        _require_encoded(context, {*days} - {*counts}, registered)
        features = on_days(context.lake.read("user_features", record.read["user_features"]), days)
        feature_sums = {row.ds: row for row in summed(features, "ds").collect()}
        failures = mismatches(counts, feature_sums, days)
        record.rows["staged_user_tokens"] = sum(row.rows for row in counts.values())
        suite = quality.packaged_suite("user_tokens.json", registered.layout, rows=record.rows["staged_user_tokens"])
        result = quality.evaluate(staged, suite)
        failures += [_described(staged, failure) for failure in result.failures]
        drift = {} if failures else _drift(context, days, registered, staged, record)
        record.notes |= {f"drift {ds}": day.note for ds, day in drift.items() if day.note}
        rows = {ds: counts[ds].rows if ds in counts else 0 for ds in days}
        files = staged_files(context, days, registered.version, record.read["staged_user_tokens"])
        _write(context, registered, record, result, rows, files, failures, drift)
        refused = f"staged_user_tokens version {record.read['staged_user_tokens']}, {days}, tokenizer {registered.version}: not published"
        if failures:
            raise GateRefused("\n".join([refused, *failures]))
        blocking = {ds for ds, day in drift.items() if day.blocking}
        accepted = accepted_days(context, days, registered) if blocking and not force else {}  # the same rows, staged again in other files
        blocked = [line for ds, day in drift.items() if ds in blocking - {*accepted} for line in _blocked(day, registered)]
        if blocked:
            raise GateRefused("\n".join([refused, *blocked]))
        states = _states(context, days, registered, feature_sums, record.read["staged_user_tokens"])
        record.states += [state for ds, state in states.items() if ds not in blocking]


def _require_encoded(context: Context, empty: set[date], registered: Registered) -> None:
    """A day without staged rows is an empty one only where the ledger has it encoded."""
    never = empty - {*last_done(context, "encode_users", Days(min(empty), max(empty)), registered.version)} if empty else empty
    for days in runs_of_days(never):
        raise BadInput(f"staged_user_tokens, {days}, {registered.version}: no rows and never encoded; run `u2qt encode` for it first, under this version")


def _drift(context: Context, days: Days, registered: Registered, staged: DataFrame, record: StageRecord) -> dict[date, DayDrift]:
    """The days against those before them. A day that is blocked is no yesterday of those after it, which are measured again without it.

    Costs one pass, and one more for each blocked day with days after it.
    """
    files = context.lake.active_files("user_tokens", record.read["user_tokens"], Where(equals=(("tokenizer_version", registered.version),)))
    published, trailing = {date.fromisoformat(file.partition["ds"]) for file in files}, context.catalog.drift.trailing_days
    blocked: set[date] = set()
    history = drift_gates.compared_days(published, days, trailing)
    found = _measured(context, days, history, registered, staged, record)
    while newly := [ds for ds in days if found[ds].blocking and ds not in blocked]:
        blocked.add(newly[0])  # the days before it are settled, those after it are not
        history = {ds: before for ds, before in drift_gates.compared_days(published, days, trailing, blocked).items() if ds > newly[0]}
        if not history:
            break
        found |= _measured(context, days, history, registered, staged, record)
    return found


def _measured(
    context: Context, chunk: Days, history: drift_gates.History, registered: Registered, staged: DataFrame, record: StageRecord
) -> dict[date, DayDrift]:
    """The days of `history`, of a chunk whose days have their rows in the stage. The tokens of trailing days are read: about a week's, a few columns of it."""
    days = [*history]
    compared = {day for before in history.values() for day in before}
    past = sorted(compared - {*chunk})
    published = context.lake.read("user_tokens", record.read["user_tokens"]).where(F.col("ds").isin(past))
    tokens = published.where(F.col("tokenizer_version") == registered.version).unionByName(staged.where(F.col("ds").isin([*days, *compared])))
    delivered = context.lake.read_declared(DELIVERIES, record.read["deliveries"]).where(F.col("delivered_ds").isin([*compared, *days]))
    events = delivered.where(F.col("source").isin([source.name for source in context.catalog.events]))  # profiles come as changes or whole, as it suits
    sums = events.groupBy("source", "delivered_ds").agg(F.sum("clean").alias("clean")).collect()
    clean = {(row.source, row.delivered_ds): int(row.clean) for row in sums}
    absent = delivered.select("source", "delivered_ds", "clean", F.explode("nulls").alias("column", "nulls")).groupBy("source", "column", "delivered_ds")
    totals = absent.agg(F.sum("nulls").alias("nulls"), F.sum("clean").alias("rows")).collect()
    nulls = {(row["source"], row["column"], row["delivered_ds"]): (int(row["nulls"]), int(row["rows"])) for row in totals}
    sizes = {(source["name"], level["level"]): int(level["codebook_size"]) for source in registered.layout["sources"] for level in source["levels"]}
    return {day.ds: day for day in drift_gates.measured(tokens, history, sizes, clean, nulls, context.catalog.drift)}


def _blocked(day: DayDrift, registered: Registered) -> list[str]:
    way_out = f"look at `u2qt report --ds {day.ds} --tokenizer-version {registered.version}`; if the day is right: "
    way_out += f"`u2qt publish --ds {day.ds} --tokenizer-version {registered.version} --accept REASON`"
    return [f"{day.ds}, not like the {len(day.compared_with)} days before it: {line}" for line in day.blocking] + [way_out]


def _described(staged: DataFrame, failure: quality.Failure) -> str:
    hashes = quality.failing_row_hashes(staged, failure, SAMPLE)
    return f"{failure}; row_hash {', '.join(map(str, hashes))}" if hashes else str(failure)


def _write(
    context: Context,
    registered: Registered,
    record: StageRecord,
    result: quality.SuiteResult,
    rows: Mapping[date, int],
    files: Mapping[date, str],
    failures: list[str],
    drift: Mapping[date, DayDrift],
) -> None:
    """One row a day, for the staged version that was read."""
    verdict = {
        "tokenizer_version": registered.version,
        "staged_version": record.read["staged_user_tokens"],
        "suite_hash": result.suite_hash,
        "success": not failures,
        "evaluated": result.evaluated,
        "failures": json.dumps(failures),
        "audited_at": datetime.now(UTC),
        "run_id": context.run_id,
    }
    found = {ds: {"drift": day.to_json(), "drift_blocked": bool(day.blocking)} for ds, day in drift.items()}
    frame = context.lake.frame(AUDITS, [verdict | {"ds": ds, "rows": count, "staged_files": files[ds]} | found.get(ds, {}) for ds, count in rows.items()])
    record.written["audits"] = context.lake.append("audits", frame, {"run_id": context.run_id, "stage": record.stage})


if __name__ == "__main__":
    from jobs.cli import submit

    submit("audit")
