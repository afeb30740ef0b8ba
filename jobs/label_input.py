"""What a join with labels reads: the labels as a table or a file, and one version's tokens at pinned table versions.

`join_labels` and `evaluate_tokens` share it, so both see the same rows and refuse the same labels.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.context import Context
from jobs.errors import BadInput
from jobs.ledger import StageRecord
from jobs.machine_faults import infrastructure_of
from jobs.point_in_time import day_of, label_moment, quoted
from jobs.raw_input import read_fault
from schemas import keys as identifiers

HAS_OFFSET = r":\d{2}(\.\d+)?\s*(Z|UTC|[+-]\d{2}(:?\d{2})?)$"
NO_SECONDS = r"([T ]\d{1,2}:\d{2})(?=$|\s*Z|\s*UTC|\s*[+-])"
DATE_ONLY = r"^\d{4}-\d{1,2}-\d{1,2}$"
TABLE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){0,2}\Z", re.ASCII)
CSV = (".csv", ".csv.gz")
RAGGED = "MALFORMED"  # in Spark's name of the error
NANOSECONDS = "; timestamps in nanoseconds can't be read: write the file with coerce_timestamps='us'"


def parsed_at(text: Column, time_zone: str) -> Column:
    """ISO 8601 text as an instant; without an offset it is the wall clock of `time_zone`; NULL where it is no time."""
    full = F.regexp_replace(F.trim(text), NO_SECONDS, "$1:00")
    wall_clock = F.concat(full, F.when(full.rlike(DATE_ONLY), F.lit(" 00:00:00Z")).otherwise(F.lit("Z")))
    local = F.to_utc_timestamp(F.try_to_timestamp(wall_clock), time_zone)
    return F.when(full.rlike(HAS_OFFSET), F.try_to_timestamp(full)).otherwise(local)


def read_labels(context: Context, labels: str, at: str | None) -> DataFrame:
    """A table of the lakehouse or of the session's catalog, a .csv file (all text, `at` parsed), or Parquet; `at` None: no column is a time."""
    spark = context.spark
    try:
        if identifiers.NAME.match(labels) and context.lake.exists(labels):
            return context.lake.read(labels)
        if TABLE_NAME.match(labels) and spark.catalog.tableExists(labels):
            return spark.table(labels)
        if labels.endswith(CSV):
            frame = spark.read.options(header="true", multiLine="true", escape='"', mode="FAILFAST").csv(labels)
        else:
            frame = spark.read.parquet(labels)
        return frame if at is None else _typed(frame, labels, at, context.catalog.time_zone)
    except (PySparkException, Py4JJavaError) as error:
        if RAGGED in str(error):
            raise _ragged(labels) from None
        if read_fault(error) is None and infrastructure_of(error) is not None:
            raise
        hint = NANOSECONDS if "NANOS" in str(error) else ""
        raise BadInput(f"labels {labels}: can't be read ({first_line(error)}), expected a table, a .csv file with a header, or Parquet{hint}") from None


@contextmanager
def naming_labels(context: Context, labels: str) -> Iterator[None]:
    """Rows of `labels` are read where they are used: a file of theirs that can't be read is `BadInput`, one of the lakehouse's is not."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = unquote(str(error))
        if RAGGED in text:
            raise _ragged(labels) from None
        if read_fault(error) is None or f"{context.lake.root}/" in text:
            raise
        raise BadInput(f"labels {labels}: a file can't be read, damaged or gone; write the labels anew") from None


def _ragged(labels: str) -> BadInput:
    """Spark's message quotes the row, and the ledger keeps ours."""
    return BadInput(f"labels {labels}: found a row without exactly the header's columns, expected as many values as it has")


def _typed(frame: DataFrame, labels: str, at: str, time_zone: str) -> DataFrame:
    """`at` as an instant where the file has it as text. Raises `BadInput` where some is no time; which, only the file says: the ledger keeps the message."""
    if at not in frame.columns or not isinstance(frame.schema[at].dataType, T.StringType):
        return frame
    text = F.col(quoted(at))
    moment = parsed_at(text, time_zone)
    row = frame.agg(F.count(text).alias("texts"), F.count_if(text.isNotNull() & moment.isNull()).alias("wrong")).collect()[0]
    if row.wrong:
        raise BadInput(
            f"labels {labels}, column {at}: {row.wrong} of {row.texts} values are no time, expected ISO 8601 such as 2026-02-01T06:00:00+08:00; "
            "name the column of times with --at, or correct them"
        )
    return frame.withColumn(at, moment)


def refuse_labels_seen_in_training(labels: DataFrame, *, at: str, time_zone: str, trained_through: date, tokenizer_version: str) -> None:
    """Raises `BadInput` when the tokenizer was trained on the day of a label, or on a later one. Starts a Spark job."""
    day = day_of(label_moment(labels, at, time_zone), time_zone)
    seen, first = labels.where(day <= F.lit(trained_through)).agg(F.count(F.lit(1)), F.min(day)).collect()[0]
    if seen:
        raise BadInput(
            f"labels, column {at}: {seen} labels (the first of {first}) are not after {trained_through}, the last day "
            f"tokenizer {tokenizer_version} was trained on; take later labels, an older tokenizer, or --allow-trained-after"
        )


def pinned_tokens(context: Context, version: str, record: StageRecord) -> tuple[DataFrame, DataFrame]:
    """Both token tables at pinned versions. user_tokens first: a repair in between then only adds rows that tie."""
    for table in ("user_tokens", "user_tokens_superseded", "runs"):
        record.read[table] = context.lake.version(table)
    ours = F.col("tokenizer_version") == F.lit(version)
    tokens = context.lake.read("user_tokens", record.read["user_tokens"]).where(ours)
    superseded = context.lake.read("user_tokens_superseded", record.read["user_tokens_superseded"]).where(ours)
    return tokens, published_repairs(superseded, tokens, context.lake.read("runs", record.read["runs"]))


def published_repairs(superseded: DataFrame, tokens: DataFrame, runs: DataFrame) -> DataFrame:
    """The superseded rows whose repair was published: its run is done for that day, or its rows are there to be seen
    (a run that died between its commit and its ledger row)."""
    repairs = F.broadcast(superseded.select("ds", "superseded_by_run").distinct())
    done = runs.where((F.col("stage") == "publish_tokens") & (F.col("status") == "done"))
    finished = repairs.join(
        F.broadcast(done),
        on=(F.col("superseded_by_run") == F.col("run_id")) & F.col("ds").between(F.col("ds_from"), F.col("ds_to")),
        how="left_semi",
    )
    written = tokens.select("ds", F.col("run_id").alias("superseded_by_run"))
    written = written.unionByName(superseded.select("ds", F.col("run_id").alias("superseded_by_run")))
    landed = written.join(repairs, on=["ds", "superseded_by_run"], how="left_semi")
    published = finished.unionByName(landed).distinct()
    return superseded.join(F.broadcast(published), on=["ds", "superseded_by_run"], how="left_semi")


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
