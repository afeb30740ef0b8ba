"""audit_tokens: the gate. Evaluates the token suite on the written stage and records the verdict.

Reads staged_user_tokens (its current version, pinned) and user_features (row counts and hashes); writes audits.
Key: ds, tokenizer_version, staged_version, run_id. Idempotent: another audit of the same version says the same.
A refusal exits 10, publishes nothing and leaves the stage as it is. A day that passed, and whose staged files and feature
rows are still those that were audited, is skipped.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from functools import partial

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs import quality
from jobs.changed_days import changed_days
from jobs.context import Context
from jobs.day_states import DayState, sum_text, summed
from jobs.delta_tables import Where, on_days
from jobs.errors import GateRefused
from jobs.ledger import StageRecord, record_stage
from jobs.registered_tokenizers import Registered, find_registered
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
    """Raises `GateRefused` naming every failing expectation with counts and sample row hashes."""
    with record_stage(context, STAGE, days, only_errors=True):
        registered = find_registered(context, version)
    describe = partial(_now, context, registered=registered)
    with changed_days(context, STAGE, days, describe, version=registered.version, force=force) as parts:
        for part in parts:
            _run(context, part, registered)


def _now(context: Context, days: Days, registered: Registered) -> dict[date, DayState]:
    features = on_days(context.lake.read("user_features"), days)
    sums = {row.ds: row for row in summed(features, "ds").collect()}
    return _states(context, days, registered, sums, context.lake.version("staged_user_tokens"))


def _states(context: Context, days: Days, registered: Registered, features: Mapping[date, Row], staged_version: int) -> dict[date, DayState]:
    """Staged files rather than sums: publishing needs an audit of exactly the files that it reads."""
    where = Where(days=days, equals=(("tokenizer_version", registered.version),))
    files: dict[str, list[str]] = {str(ds): [] for ds in days}
    for file in context.lake.active_files("staged_user_tokens", staged_version, where):
        files[file.partition["ds"]].append(file.url.rsplit("/", 1)[-1])
    definition = quality.packaged_suite("user_tokens.json", registered.layout, rows=0).suite_hash
    return {
        ds: DayState(
            ds=ds,
            definition=definition,
            inputs={
                "user_features": sum_text(features.get(ds)),
                "staged_user_tokens": hashlib.sha256("\n".join(sorted(files[str(ds)])).encode()).hexdigest(),
            },
            tokenizer_version=registered.version,
        )
        for ds in days
    }


def _run(context: Context, days: Days, registered: Registered) -> None:
    with record_stage(context, STAGE, days) as record:
        for table in ("staged_user_tokens", "user_features"):
            record.read[table] = context.lake.version(table)
        staged = on_days(context.lake.read("staged_user_tokens", record.read["staged_user_tokens"]), days)
        staged = staged.where(F.col("tokenizer_version") == registered.version)
        counts = {row.ds: row for row in summed(staged, "ds").collect()}
        features = on_days(context.lake.read("user_features", record.read["user_features"]), days)
        feature_sums = {row.ds: row for row in summed(features, "ds").collect()}
        failures = mismatches(counts, feature_sums, days)
        record.rows["staged_user_tokens"] = sum(row.rows for row in counts.values())
        suite = quality.packaged_suite("user_tokens.json", registered.layout, rows=record.rows["staged_user_tokens"])
        result = quality.evaluate(staged, suite)
        failures += [_described(staged, failure) for failure in result.failures]
        verdicts = {ds: (not failures, counts[ds].rows if ds in counts else 0) for ds in days}
        _write(context, registered, record, result, verdicts, failures)
        if failures:
            staged_version = record.read["staged_user_tokens"]
            raise GateRefused("\n".join([f"staged_user_tokens version {staged_version}, {days}, tokenizer {registered.version}: not published", *failures]))
        record.states += _states(context, days, registered, feature_sums, record.read["staged_user_tokens"]).values()


def _described(staged: DataFrame, failure: quality.Failure) -> str:
    hashes = quality.failing_row_hashes(staged, failure, SAMPLE)
    return f"{failure}; row_hash {', '.join(map(str, hashes))}" if hashes else str(failure)


def _write(
    context: Context,
    registered: Registered,
    record: StageRecord,
    result: quality.SuiteResult,
    verdicts: Mapping[date, tuple[bool, int]],
    failures: list[str],
) -> None:
    """One row a day, for the staged version that was read."""
    staged_version = record.read["staged_user_tokens"]
    rows = [
        (ds, registered.version, staged_version, result.suite_hash, success, result.evaluated, count, json.dumps(failures), context.run_id)
        for ds, (success, count) in verdicts.items()
    ]
    frame = context.spark.createDataFrame(rows, context.lake.read("audits").schema).coalesce(1)
    record.written["audits"] = context.lake.append("audits", frame, {"run_id": context.run_id, "stage": record.stage})


if __name__ == "__main__":
    from jobs.cli import submit

    submit("audit")
