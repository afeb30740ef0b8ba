"""audit_tokens: the gate. Evaluates the token suite on the written stage and records the verdict.

Reads staged_user_tokens (its current version, pinned) and user_features (row counts and hashes); writes audits.
Key: ds, tokenizer_version, staged_version, run_id. Idempotent: another audit of the same version says the same.
A refusal exits 10, publishes nothing and leaves the stage as it is.
"""

import json
from collections.abc import Mapping
from datetime import date

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs import quality
from jobs.context import Context
from jobs.delta_tables import on_days
from jobs.errors import GateRefused
from jobs.ledger import StageRecord, record_stage
from jobs.registered_tokenizers import Registered, find_registered
from schemas.keys import Days

SAMPLE = 5  # row hashes named per failing expectation


def day_sums(rows: DataFrame) -> DataFrame:
    """Per day: rows and an order-free sum of row_hash, which together identify the set of rows."""
    return rows.groupBy("ds").agg(F.count(F.lit(1)).alias("rows"), F.sum(F.col("row_hash").cast("decimal(38,0)")).alias("hashes"))


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


def run(context: Context, days: Days, version: str | None = None) -> None:
    """Raises `GateRefused` naming every failing expectation with counts and sample row hashes."""
    with record_stage(context, "audit_tokens", days) as record:
        registered = find_registered(context, version)
        for table in ("staged_user_tokens", "user_features"):
            record.read[table] = context.lake.version(table)
        staged = on_days(context.lake.read("staged_user_tokens", record.read["staged_user_tokens"]), days)
        staged = staged.where(F.col("tokenizer_version") == registered.version)
        counts = {row.ds: row for row in day_sums(staged).collect()}
        features = on_days(context.lake.read("user_features", record.read["user_features"]), days)
        failures = mismatches(counts, {row.ds: row for row in day_sums(features).collect()}, days)
        record.rows["staged_user_tokens"] = sum(row.rows for row in counts.values())
        suite = quality.packaged_suite("user_tokens.json", registered.layout, rows=record.rows["staged_user_tokens"])
        result = quality.evaluate(staged, suite)
        failures += [_described(staged, failure) for failure in result.failures]
        verdicts = {ds: (not failures, counts[ds].rows if ds in counts else 0) for ds in days}
        _write(context, registered, record, result, verdicts, failures)
        if failures:
            staged_version = record.read["staged_user_tokens"]
            raise GateRefused("\n".join([f"staged_user_tokens version {staged_version}, {days}, tokenizer {registered.version}: not published", *failures]))


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
