"""encode_users: the feature rows of a day become codes under one tokenizer version.

Reads user_features (one pinned version, file by file); writes staged_user_tokens.
Key: user_id, ds, tokenizer_version. Idempotent on (ds, tokenizer_version): a re-run replaces those partitions.
Rows counted by Delta = rows read by Petastorm = rows written, or the run stops. Driver memory grows with row groups.
A day whose features and codes are as its last run left them is skipped. Of a day that is published already only the
users whose `row_hash` changed are encoded; the others keep their published codes.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from functools import partial

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import retention
from jobs.changed_days import changed_days
from jobs.context import Context
from jobs.day_states import DayState, last_done, ledger_days, runs_of_days, sums_by_day, tokens_hash
from jobs.delta_tables import ActiveFile, Where, on_days
from jobs.encoding import FrozenTokenizer, encode_units, tokens_udf
from jobs.errors import BadInput, GateRefused
from jobs.ledger import StageRecord, record_stage
from jobs.registered_tokenizers import Registered, find_registered, load_registered, ship
from jobs.work_units import balanced, write_tasks
from schemas.keys import Days
from schemas.user_tokens import codes_column
from u2qt_model import Tokenizer

STAGE = "encode_users"
UNITS_PER_SLOT = 2
ROWS_PER_TOKEN_FILE = 500_000  # about 50 MB
UNIT = "ds date, url string, shard int, shards int, rows bigint"


def codes_schema(sources: tuple[str, ...]) -> str:
    codes = ", ".join(f"{codes_column(source)} array<smallint>" for source in sources)
    return f"user_id string, available_at timestamp, row_hash bigint, {codes}, ds date"


def run(context: Context, days: Days, version: str | None = None, *, force: bool = False) -> None:
    """Raises `BadInput` when a day has no features, or the checkpoint is not what was registered, `GateRefused` when the features' build
    did not end well. `force` reuses no codes."""
    with record_stage(context, STAGE, days, version=version, only_errors=True):
        registered = find_registered(context, version)
        retention.require_features(context, days)
        tokenizer = load_registered(registered, context.catalog)
    describe = partial(states, context, registered=registered)
    with changed_days(context, STAGE, days, describe, version=registered.version, force=force) as parts:
        for part in parts:
            _run(context, part, registered, tokenizer, force)


def states(context: Context, days: Days, registered: Registered, features: int | None = None, staged: int | None = None) -> dict[date, DayState]:
    """Feature rows, and staged rows with their codes, at the versions given or as they are now."""
    sources = [source.name for source in context.catalog.sources]
    inputs = sums_by_day(on_days(context.lake.read("user_features", features), days), days)
    rows = on_days(context.lake.read("staged_user_tokens", staged), days).where(F.col("tokenizer_version") == registered.version)
    outputs = sums_by_day(rows.select("ds", tokens_hash(sources).alias("row_hash")), days)
    return {
        ds: DayState(
            ds=ds,
            definition=registered.fingerprint,
            inputs={"user_features": inputs[ds]},
            outputs={"staged_user_tokens": outputs[ds]},
            tokenizer_version=registered.version,
        )
        for ds in days
    }


def _run(context: Context, days: Days, registered: Registered, tokenizer: Tokenizer, force: bool) -> None:
    with record_stage(context, STAGE, days, version=registered.version) as record:
        frozen = ship(context, registered, tokenizer.layout.source_names)
        record.read["user_features"] = context.lake.version("user_features")
        files = context.lake.active_files("user_features", record.read["user_features"], Where(days=days))
        record.rows["user_features"] = sum(file.rows for file in files)
        _require_features(context, days, files, record.read["user_features"])
        reused = None if force else _reused(context, days, registered, frozen, tokenizer.columns(), record)
        if reused is None:
            units = planned_units(context, files)
            record.rows["petastorm_units"] = sum(len(task) for task in units)
            record.rows["encoded"] = record.rows["user_features"]
        rows = encoded(context, units, frozen) if reused is None else reused
        _write(context, days, rows, registered, record)
        record.states += states(context, days, registered, record.read["user_features"], record.written["staged_user_tokens"]).values()


def _reused(context: Context, days: Days, registered: Registered, frozen: FrozenTokenizer, columns: tuple[str, ...], record: StageRecord) -> DataFrame | None:
    """Published codes for the rows that did not change, fresh ones for the others; None where every row changed."""
    record.read["user_tokens"] = context.lake.version("user_tokens")
    where = Where(days=days, equals=(("tokenizer_version", registered.version),))
    if not context.lake.active_files("user_tokens", record.read["user_tokens"], where):
        return None
    names = [codes_column(source) for source in frozen.sources]
    known = on_days(context.lake.read("user_tokens", record.read["user_tokens"]), days).where(F.col("tokenizer_version") == registered.version)
    known = known.select("user_id", "ds", "row_hash", F.struct(*names).alias("known"))
    features = on_days(context.lake.read("user_features", record.read["user_features"]), days)
    features = features.withColumn("user_id", F.col("user_id").cast("string"))
    joined = features.join(known, on=["user_id", "ds", "row_hash"], how="left")
    same = joined.where(F.col("known").isNotNull())
    record.rows["reused"] = features.select("user_id", "ds", "row_hash").join(known, on=["user_id", "ds", "row_hash"], how="left_semi").count()
    record.rows["encoded"] = record.rows["user_features"] - record.rows["reused"]
    if not record.rows["reused"]:
        record.rows.pop("reused")
        return None
    keys = ("user_id", "available_at", "row_hash")
    kept = same.select(*keys, *(F.col(f"known.{name}").alias(name) for name in names), "ds")
    if not record.rows["encoded"]:
        return kept
    changed = joined.where(F.col("known").isNull())
    fresh = changed.select(*keys, tokens_udf(frozen)(F.struct(*columns)).alias("codes"), "ds")
    return kept.unionByName(fresh.select(*keys, *(F.col(f"codes.{name}").alias(name) for name in names), "ds"))


def _require_features(context: Context, days: Days, files: list[ActiveFile], version: int) -> None:
    """An empty day is right only when it was built, rows only when the run that wrote them ended well: ledger rows of `build_user_features` say so."""
    empty = {*days} - {date.fromisoformat(file.partition["ds"]) for file in files}
    attempts = ledger_days(context, "build_user_features", days, ("done", "refused", "failed")).groupBy("ds", "run_id")
    ended = {(row.ds, row.run_id) for row in attempts.agg(F.max_by("status", "started_at").alias("status")).where("status = 'done'").collect()}
    for missing in runs_of_days(empty - {ds for ds, _ in ended}):
        raise BadInput(f"user_features, {missing}: no rows and never built; run `u2qt build` for it first")
    written = on_days(context.lake.read("user_features", version), days).select("ds", "run_id").distinct().collect()  # a removal of users leaves it as it is
    unknown = {row.ds for row in written if (row.ds, row.run_id) not in ended}  # of a build that failed, or whose ledger row is lost
    known = last_done(context, "build_user_features", days) if unknown else {}
    sums = {ds: text for part in runs_of_days(unknown) for ds, text in sums_by_day(on_days(context.lake.read("user_features", version), part), part).items()}
    for others in runs_of_days(ds for ds in unknown if ds not in known or known[ds].outputs.get("user_features") != sums[ds]):
        raise GateRefused(f"user_features, {others}: its rows are of a build that did not end well; run `u2qt build` for it again")


def planned_units(context: Context, files: list[ActiveFile]) -> list[list[tuple[object, ...]]]:
    """Row groups of the pinned files, shared out to tasks by rows. Footers are read by executors."""
    if not files:
        return []
    listed = context.spark.createDataFrame([(f.partition["ds"], f.url, f.rows) for f in files], "ds string, url string, rows bigint")
    slots = context.spark.sparkContext.defaultParallelism
    groups = listed.repartition(min(len(files), UNITS_PER_SLOT * slots)).mapInPandas(row_groups, UNIT).orderBy("ds", "url", "shard").collect()
    counted: dict[str, int] = {}
    for group in groups:
        counted[group.url] = counted.get(group.url, 0) + group.rows
    expected = {f.url: f.rows for f in files}
    if counted != expected:
        wrong = next(url for url in expected if counted.get(url) != expected[url])
        raise RuntimeError(f"file {wrong}: {counted.get(wrong, 0)} rows in its footer, {expected[wrong]} in Delta's statistics")
    return [[tuple(groups[i]) for i in bin_] for bin_ in balanced([g.rows for g in groups], max(UNITS_PER_SLOT * slots, len(files) // 4))]


def row_groups(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Rows (ds, url) to one row (ds, url, shard, shards, rows) per row group, from the footers."""
    from u2qt_model.stream import units_of

    for frame in frames:
        for file in frame.to_dict("records"):
            units = units_of(file["url"])
            ds = pd.Timestamp(file["ds"]).date()
            yield pd.DataFrame([(ds, u.url, u.shard, u.shards, u.rows) for u in units], columns=["ds", "url", "shard", "shards", "rows"])


def encoded(context: Context, tasks: list[list[tuple[object, ...]]], frozen: FrozenTokenizer) -> DataFrame:
    """One row per feature row: its keys and codes. One partition per task."""
    schema = codes_schema(frozen.sources)
    if not tasks:
        return context.spark.createDataFrame([], schema)
    batches = context.spark.sparkContext.parallelize(tasks, len(tasks)).flatMap(lambda units: units)
    return context.spark.createDataFrame(batches, UNIT).mapInPandas(encode_units(frozen), schema)


def _write(context: Context, days: Days, rows: DataFrame, registered: Registered, record: StageRecord) -> None:
    keyed = rows.select("*", F.lit(registered.version).alias("tokenizer_version"), F.lit(context.run_id).alias("run_id"))
    slots = context.spark.sparkContext.defaultParallelism
    files = max(1, -(-record.rows["user_features"] // ROWS_PER_TOKEN_FILE // len(days)))
    spread = keyed.repartition(write_tasks(len(days) * files, slots), "ds", F.pmod(F.col("row_hash"), F.lit(files))).sortWithinPartitions("ds", "user_id")
    where = Where(days=days, equals=(("tokenizer_version", registered.version),))
    metadata = {"run_id": context.run_id, "stage": record.stage, "fingerprint": registered.fingerprint, "read": record.read}
    version = context.lake.replace("staged_user_tokens", spread, where, metadata)
    record.written["staged_user_tokens"] = version
    record.rows["staged_user_tokens"] = sum(f.rows for f in context.lake.active_files("staged_user_tokens", version, where))
    if record.rows["staged_user_tokens"] != record.rows["user_features"]:
        raise RuntimeError(
            f"staged_user_tokens, {days}: wrote {record.rows['staged_user_tokens']} rows, expected {record.rows['user_features']} "
            f"as in user_features version {record.read['user_features']}"
        )


if __name__ == "__main__":
    from jobs.cli import submit

    submit("encode")
