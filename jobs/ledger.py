"""The ledger: one `runs` row per stage of a run, whatever its end. Never holds user content."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    DateType,
    DoubleType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from jobs import event_log, lineage, machine_faults
from jobs.context import Context
from jobs.day_states import DayState
from jobs.endings import is_expected, model_error_of_a_worker, words_of
from schemas.keys import Days
from schemas.passwords import SECRET_KEY

LOG = logging.getLogger("u2qt")
COUNTS = MapType(StringType(), LongType())
SUMS = MapType(StringType(), StringType())
STATE = StructType(
    [
        StructField("ds", DateType()),
        StructField("definition", StringType()),
        StructField("inputs", SUMS),
        StructField("outputs", SUMS),
        StructField("cutoff", TimestampType()),
        StructField("tokenizer_version", StringType()),
    ]
)
RUNS_SCHEMA = StructType(
    [
        StructField("stage", StringType()),
        StructField("ds_from", DateType()),
        StructField("ds_to", DateType()),
        StructField("status", StringType()),
        StructField("rows", COUNTS),
        StructField("tables_read", COUNTS),
        StructField("tables_written", COUNTS),
        StructField("seconds", DoubleType()),
        StructField("started_at", TimestampType()),
        StructField("detail", StringType()),
        StructField("run_id", StringType()),
        StructField("states", ArrayType(STATE)),
    ]
)


@dataclass(kw_only=True, slots=True)
class StageRecord:
    """Filled in by a stage while it runs."""

    stage: str
    days: Days | None
    rows: dict[str, int] = field(default_factory=dict)  # hop -> rows
    read: dict[str, int] = field(default_factory=dict)  # table -> version
    written: dict[str, int] = field(default_factory=dict)  # table -> version
    notes: dict[str, object] = field(default_factory=dict)  # small facts for `detail`, never content
    states: list[DayState] = field(default_factory=list)  # what a later run compares with
    seconds: float = 0.0
    status: str = "done"


@contextmanager
def record_stage(context: Context, stage: str, days: Days | None, *, version: str | None = None, only_errors: bool = False) -> Iterator[StageRecord]:
    """Yields the record to fill; writes it when the block ends. An error is recorded and goes on its way.

    `version`: the tokenizer's that the stage works with, so that its failure counts against no other.
    `only_errors`: a look at what there is to do leaves a row only when it fails; one at several days counts against none of them, as nobody
    can say which of them it is of, and nothing was worked on.
    """
    record = StageRecord(stage=stage, days=days)
    started, clock = datetime.now(UTC), time.perf_counter()
    told = lineage.StageRun(stage=stage, run_id=context.run_id, days=days, started=started, root=context.lake.root)
    if not only_errors:
        event_log.stage_started(stage, context.run_id, days, version)
        lineage.start(told)
    try:
        yield record
    except BaseException as error:
        fault = machine_faults.infrastructure_of(error, lambda: room(context)) or model_error_of_a_worker(error)
        _note_error(context, record, fault or error, version, looked=only_errors)
        record.seconds = time.perf_counter() - clock
        _append_if_possible(context, record, started)
        _tell(context, record, told, version)
        if fault is not None:
            raise fault from error
        raise
    record.seconds = time.perf_counter() - clock
    if not only_errors:
        _append_or_say_why(context, record, started)
        _tell(context, record, told, version)  # the ledger first: what is told as done is recorded


def _append_or_say_why(context: Context, record: StageRecord, started: datetime) -> None:
    """A stage without its row is not done: the machine's lack is named here, and a repetition does the work again."""
    with machine_faults.told(lambda: room(context)):
        _append(context, record, started)


def _note_error(context: Context, record: StageRecord, error: BaseException, version: str | None, *, looked: bool) -> None:
    record.status = "refused" if is_expected(error) else "failed"
    record.notes["error"] = words_of(error, _secrets(context))
    days: list[date | None] = list(record.days or ())
    record.states = [DayState(ds=ds, definition="", inputs={}, tokenizer_version=version) for ds in ([None] if looked and len(days) > 1 else days)]


def _append_if_possible(context: Context, record: StageRecord, started: datetime) -> None:
    """The error on its way must not be hidden by a row that the same full disk, or the same dead Java, refuses."""
    try:
        _append(context, record, started)
    except Exception as unwritten:
        LOG.warning("the ledger has no row of this end of %s: it could not be written (%s)", record.stage, type(unwritten).__name__)


def _secrets(context: Context) -> list[str]:
    """Values of this session's settings that are secrets by their names; none where Java has ended, as nothing is written then."""
    try:
        return [value for key, value in context.spark.sparkContext.getConf().getAll() if SECRET_KEY.search(key)]
    except Exception as silent:
        LOG.warning("settings can't be read (%s): Spark has ended", type(silent).__name__)
        return []


def room(context: Context) -> dict[str, str]:
    """How full the folders are that a command writes to, as this process sees them."""
    scratch = context.spark.conf.get("spark.local.dir", tempfile.gettempdir()) or tempfile.gettempdir()
    folders = {"scratch": scratch.split(",")[0], **({"lakehouse": context.lake.root} if context.lake.is_local else {})}
    found = {}
    for place, folder in folders.items():
        if not Path(folder).exists():
            continue  # the lakehouse, before its `init`
        usage = shutil.disk_usage(folder)
        found[f"{place} {folder}"] = f"{usage.free / 2**20:,.1f} of {usage.total / 2**20:,.1f} MiB free"
    return found


def _tell(context: Context, record: StageRecord, told: lineage.StageRun, version: str | None) -> None:
    """The stage's end, to the structured log and to a lineage server where there is one."""
    versions = {state.tokenizer_version for state in record.states} - {None}
    error = str(record.notes["error"]) if record.status in ("refused", "failed") else None
    event_log.stage_ended(
        record.stage,
        context.run_id,
        record.days,
        version or (versions.pop() if len(versions) == 1 else None),
        status=record.status,
        rows=record.rows,
        seconds=record.seconds,
        error=error,
    )
    lineage.end(told, read=record.read, written=record.written, rows=record.rows, error=error, seconds=record.seconds)


def _append(context: Context, record: StageRecord, started: datetime) -> None:
    row = (
        record.stage,
        record.days.first if record.days else None,
        record.days.last if record.days else None,
        record.status,
        record.rows,
        record.read,
        record.written,
        record.seconds,
        started,
        json.dumps(record.notes, default=str) if record.notes else None,
        context.run_id,
        [(s.ds, s.definition, dict(s.inputs), dict(s.outputs), s.cutoff, s.tokenizer_version) for s in record.states],
    )
    frame = context.spark.createDataFrame([row], RUNS_SCHEMA).coalesce(1)
    context.lake.append("runs", frame, {"run_id": context.run_id, "stage": record.stage})


def versions_read(context: Context, stage: str, days: Days) -> dict[str, int]:
    """Table versions that the last finished run of `stage` over `days` read; empty when it never ran."""
    done = context.lake.read("runs").where((F.col("stage") == stage) & (F.col("status") == "done"))
    covering = done.where((F.col("ds_from") <= F.lit(days.first)) & (F.col("ds_to") >= F.lit(days.last)))
    row = covering.agg(F.max_by("tables_read", "started_at").alias("read")).first()
    return dict(row["read"] or {}) if row else {}
