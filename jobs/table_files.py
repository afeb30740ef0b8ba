"""A table's data files: how many and how large, live and dead; small ones put together, dead ones removed.

Knows nothing of days that are kept, of stages or of leases. *Live* files are those that the newest version names; *dead*
is everything else under the table's folder but its log. The driver sees numbers per table, and the days of partitions with
many small files; it never sees rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.day_states import runs_of_days
from jobs.delta_tables import Lakehouse, Where
from schemas.keys import Days
from schemas.table import Table

SMALL = 16 * 2**20  # bytes; a file below it is put together with others
LARGE = 128 * 2**20  # bytes that a file made of small ones may reach
DAYS_AT_ONCE = 31  # of one compaction: other commits on a local root wait no longer than for these
DAY_COLUMNS = ("delivered_ds", "ds")  # partitions are of days; the first of these that a table has
METADATA = "spark.databricks.delta.commitInfo.userMetadata"
OPTIMIZE = {"spark.databricks.delta.optimize.minFileSize": str(SMALL), "spark.databricks.delta.optimize.maxFileSize": str(LARGE)}
# Leases say what is in use, so Delta's own minimum of 7 days is off; nor does a vacuum commit anything.
VACUUM = {"spark.databricks.delta.retentionDurationCheck.enabled": "false", "spark.databricks.delta.vacuum.logging.enabled": "false"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """Disk use of a table. Checksum files of a local file system (under 1%) are not counted."""

    live_files: int
    live_bytes: int
    dead_files: int
    dead_bytes: int
    log_bytes: int

    @property
    def files(self) -> int:
        return self.live_files + self.dead_files

    @property
    def bytes(self) -> int:
        return self.live_bytes + self.dead_bytes + self.log_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    files: int
    bytes: int
    rows: int


def use(lake: Lakehouse, table: str) -> Use:
    live = counted(lake, table)
    log_files, log_bytes = _folder(lake, f"{lake.path(table)}/_delta_log")
    files, size = _folder(lake, lake.path(table))  # after the snapshot: what is written meanwhile counts as dead, nothing below zero
    return Use(
        live_files=live.files,
        live_bytes=live.bytes,
        dead_files=files - log_files - live.files,
        dead_bytes=size - log_bytes - live.bytes,
        log_bytes=log_bytes,
    )


def counted(lake: Lakehouse, table: str, where: Where | None = None) -> Counted:
    """The live files of those partitions, from Delta's own statistics."""
    rows = F.sum(F.get_json_object("stats", "$.numRecords").cast("bigint"))
    row = lake.snapshot_files(table, where=where).agg(F.count("*").alias("files"), F.sum("size").alias("bytes"), rows.alias("rows")).first()
    assert row is not None, "an aggregate has one row"
    return Counted(files=row["files"], bytes=row["bytes"] or 0, rows=row["rows"] or 0)


def _folder(lake: Lakehouse, path: str) -> tuple[int, int]:
    """Files and bytes under a folder, counted in the JVM."""
    found = lake.spark._jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
    summary = found.getFileSystem(lake.spark._jsparkSession.sessionState().newHadoopConf()).getContentSummary(found)
    return int(summary.getFileCount()), int(summary.getLength())


def crowded(lake: Lakehouse, table: Table, most: int) -> list[Where | None]:
    """Ranges of partitions to compact, those with more than `most` small files among them; [None] is a table without partitions."""
    small = lake.snapshot_files(table.name).where(F.col("size") < SMALL)
    day = next((column for column in DAY_COLUMNS if column in table.partition_by), None)
    if day is None:
        return [None] if small.count() > most else []
    keys = [F.col("partitionValues").getItem(column).alias(column) for column in table.partition_by]
    many = small.groupBy(*keys).count().where(F.col("count") > most)
    days = [date.fromisoformat(row[day]) for row in many.select(day).distinct().collect()]
    return [Where(days=part, day_column=day) for found in runs_of_days(days) for part in _cut(found)]


def _cut(days: Days) -> Iterator[Days]:
    every = list(days)
    for start in range(0, len(every), DAYS_AT_ONCE):
        part = every[start : start + DAYS_AT_ONCE]
        yield Days(part[0], part[-1])


def compact(lake: Lakehouse, table: str, where: Where | None, metadata: Mapping[str, object]) -> tuple[int, int]:
    """Puts the small files of each of those partitions together, in one commit. Returns files removed and added; rows stay as they are."""
    optimize = DeltaTable.forPath(lake.spark, lake.require(table)).optimize()
    if where is not None:
        optimize = optimize.where(where.sql())
    with lake.own_commit(table, metadata) as marked, _set(lake.spark, OPTIMIZE | {METADATA: marked}):
        row = optimize.executeCompaction().select("metrics.numFilesRemoved", "metrics.numFilesAdded").first()
    assert row is not None, "OPTIMIZE answers with one row"
    return int(row[0]), int(row[1])


def vacuum(lake: Lakehouse, table: str, hours: int) -> None:
    """Removes the files that no version of the last `hours` names; the caller knows that nobody reads older ones."""
    if lake.standing is not None:
        lake.standing()
    with _set(lake.spark, VACUUM):
        DeltaTable.forPath(lake.spark, lake.require(table)).vacuum(hours)


@contextmanager
def _set(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Settings of the session for the block alone."""
    before = {key: spark.conf.get(key, None) for key in settings}
    try:
        for key, value in settings.items():
            spark.conf.set(key, value)
        yield
    finally:
        for key, old in before.items():
            if old is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, old)
