"""Rows taken out of a table, and out of its history. For holders of an exclusive lease only: pinned readers lose their files.

Ids reach Delta as a table to join with, so that none stands in a commit's predicate. Memory and one commit's size are bounded by
the days that share a commit; only files that hold such a row are written anew.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.delta_tables import PROPERTIES, Lakehouse
from jobs.tables_with_ids import WithIds

DAYS_AT_ONCE = 31
VACUUMS_AT_ONCE = 4  # one is mostly waiting for the log
METADATA = "spark.databricks.delta.commitInfo.userMetadata"
RETENTION_CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"
STATISTICS = "delta.dataSkippingNumIndexedCols"


def remove_rows(lake: Lakehouse, table: WithIds, found: DataFrame, days: Sequence[date], metadata: Mapping[str, object]) -> None:
    """`found` is the table's `found`, `days` the ascending days of its partitions with such rows."""
    source = found.select("identity", table.day).distinct().alias("s")
    target = DeltaTable.forPath(lake.spark, lake.require(table.name)).alias("t")
    same = table.identity == F.col("s.identity")
    for start in range(0, len(days), DAYS_AT_ONCE):
        part = list(days[start : start + DAYS_AT_ONCE])
        in_part = F.col(f"t.{table.day}").isin(part) & (F.col(f"t.{table.day}") == F.col(f"s.{table.day}"))
        with lake.commit_lock(), _setting(lake.spark, METADATA, json.dumps(metadata, sort_keys=True)):
            target.merge(source.where(F.col(table.day).isin(part)), in_part & same).whenMatchedDelete().execute()


def removed_since(lake: Lakehouse, table: str, version: int, metadata: Mapping[str, object]) -> tuple[int, int]:
    """Rows removed and files rewritten by commits with this metadata after `version`, as Delta counted them."""
    commits = lake.version(table) - version
    if not commits:
        return 0, 0
    mine = json.dumps(metadata, sort_keys=True)
    history = DeltaTable.forPath(lake.spark, lake.path(table)).history(commits).where(F.col("userMetadata") == mine)
    metrics = [row["operationMetrics"] for row in history.select("operationMetrics").collect()]
    return tuple(sum(int(m.get(name, 0)) for m in metrics) for name in ("numTargetRowsDeleted", "numTargetFilesRemoved"))  # type: ignore[return-value]


def vacuum(lake: Lakehouse, tables: Sequence[str]) -> dict[str, int]:
    """Files deleted, by table: those of every version but the current one."""
    targets = {name: DeltaTable.forPath(lake.spark, lake.require(name)) for name in tables}
    before = {name: _data_files(Path(lake.path(name))) for name in tables}
    with lake.commit_lock(), _setting(lake.spark, RETENTION_CHECK, "false"), ThreadPoolExecutor(VACUUMS_AT_ONCE) as pool:
        list(pool.map(lambda target: target.vacuum(0), targets.values()))
    return {name: before[name] - _data_files(Path(lake.path(name))) for name in tables}


def with_statistics(lake: Lakehouse, table: str) -> bool:
    """Whether the table's log keeps values of its columns, as a table made by other hands may."""
    detail = DeltaTable.forPath(lake.spark, lake.path(table)).detail().select("properties").first()
    return detail is not None and detail["properties"].get(STATISTICS) != PROPERTIES[STATISTICS]


def _data_files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts)


@contextmanager
def _setting(spark: SparkSession, key: str, value: str) -> Iterator[None]:
    """A setting of this session, as it was before when the block ends."""
    before = spark.conf.get(key, None)
    spark.conf.set(key, value)
    try:
        yield
    finally:
        if before is None:
            spark.conf.unset(key)
        else:
            spark.conf.set(key, before)
