"""The lakehouse: a folder (or URI) of Delta tables. All reading, replacing and pinning of tables goes through here.

Knows nothing of stages. Only `create` makes tables. Commits of separate processes on a local root serialise on a lock:
two JVMs racing on one folder can both believe they won.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import filelock
from delta.exceptions import DeltaConcurrentModificationException
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType

from jobs.commits import clear_unfinished, conflict_of, entries_of_files, entries_of_history, require_once
from jobs.errors import BadInput, CommitConflict, Infrastructure
from schemas import keys
from schemas.keys import Days
from schemas.table import Field, Table

PROPERTIES = {
    "delta.dataSkippingNumIndexedCols": "0",  # file statistics would keep user ids in the log for ever
    "delta.enableDeletionVectors": "false",  # Petastorm would read the rows they hide
    "delta.columnMapping.mode": "none",
    "delta.deletedFileRetentionDuration": "interval 7 days",
}
ADD_COLUMNS = "expected it in this release; run `u2qt init`, which adds the columns that an earlier lakehouse lacks"
FORBIDDEN_IN_ROOT = ("#", "`", "\0", "..")


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveFile:
    """One data file of a pinned table version. `url` is absolute; `rows` is Delta's own count."""

    url: str
    rows: int
    partition: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """A predicate on partition columns, from checked values only: days, equalities of identifiers, and those of `also`."""

    days: Days | None = None
    day_column: str = "ds"
    equals: tuple[tuple[str, str], ...] = ()
    also: "Where | None" = None

    def sql(self) -> str:
        parts = []
        if self.days is not None:
            column = keys.name(self.day_column)
            parts.append(f"{column} >= DATE'{self.days.first}' AND {column} <= DATE'{self.days.last}'")
        parts += [f"{keys.name(column)} = '{keys.version(value)}'" for column, value in self.equals]
        if self.also is not None:
            parts.append(self.also.sql())
        if not parts:
            raise AssertionError("an empty predicate would replace the whole table")
        return " AND ".join(parts)


class Lakehouse:
    """Tables under `root`. Methods return the table version they read or wrote where a caller may have to pin it."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        for forbidden in FORBIDDEN_IN_ROOT:
            if forbidden in root:
                raise BadInput(f"--root {root!r}: found {forbidden!r}, expected a path without it (Delta, Petastorm or SQL would misread it)")
        self.spark = spark
        self.standing: Callable[[], None] | None = None  # raises when the lease that this process holds is over
        self.lease_id: str | None = None  # of that lease
        parts = urlsplit(root)
        self.is_local = parts.scheme in ("", "file")
        self.root = str(Path(unquote(parts.path) if parts.scheme else root).resolve()) if self.is_local else root.rstrip("/")

    def path(self, table: str) -> str:
        return f"{self.root}/{keys.name(table)}"

    def exists(self, table: str) -> bool:
        return DeltaTable.isDeltaTable(self.spark, self.path(table))

    def require(self, table: str) -> str:
        if not self.exists(table):
            raise BadInput(f"table {table}: not found in {self.root}, expected a lakehouse of this catalog; run `u2qt init --root {self.root}` first")
        return self.path(table)

    def create(self, table: Table) -> bool:
        """Creates `table` unless it exists; the caller holds the commit lock. True when it was made now."""
        if self.exists(table.name):
            return False
        builder = DeltaTable.createIfNotExists(self.spark).location(self.path(table.name)).comment(table.comment)
        for field in table.fields:
            builder = builder.addColumn(field.name, field.type, nullable=field.nullable, comment=field.comment)
        for key, value in PROPERTIES.items():
            builder = builder.property(key, value)
        if table.partition_by:
            builder = builder.partitionedBy(*table.partition_by)
        for name, check in table.checks:
            builder = builder.property(f"delta.constraints.{keys.name(name)}", check)
        builder.execute()
        return True

    def add_later_columns(self, table: Table) -> list[str]:
        """Adds the columns of a later release that an existing `table` lacks; the caller holds the commit lock."""
        found = self.read(table.name)
        absent = [field for field in table.fields if field.later and field.name not in found.columns]
        if absent:
            empty = self.spark.createDataFrame([], StructType([*found.schema.fields, *row_type(absent).fields]))
            empty.write.format("delta").mode("append").option("mergeSchema", "true").save(self.path(table.name))
        return [field.name for field in absent]

    def renew_checks(self, table: Table) -> list[str]:
        """Constraints of an existing `table` that an earlier release declared otherwise; the caller holds the commit lock."""
        found = {row["key"]: row["value"] for row in self.spark.sql(f"SHOW TBLPROPERTIES delta.`{self.path(table.name)}`").collect()}
        declared = [(keys.name(name), check) for name, check in table.checks]
        stale = [(name, check) for name, check in declared if _unspaced(found.get(f"delta.constraints.{name}", "")) != _unspaced(check)]
        for name, check in stale:
            self.spark.sql(f"ALTER TABLE delta.`{self.path(table.name)}` DROP CONSTRAINT IF EXISTS {name}")
            self.spark.sql(f"ALTER TABLE delta.`{self.path(table.name)}` ADD CONSTRAINT {name} CHECK ({check})")
        return [name for name, _ in stale]

    def version(self, table: str) -> int:
        return int(self._snapshot(table, None).version())

    def read(self, table: str, version: int | None = None) -> DataFrame:
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.require(table))

    def read_declared(self, table: Table, version: int | None = None) -> DataFrame:
        """A table whose later columns may be absent in an older lakehouse: refused with the way out, not read as nothing."""
        rows = self.read(table.name, version)
        absent = [column for column in table.columns if column not in rows.columns]
        if absent:
            raise BadInput(f"table {table.name} in {self.root}: no column {', '.join(absent)}, {ADD_COLUMNS}")
        return rows

    def replace(
        self, table: str, rows: DataFrame, where: Where, metadata: Mapping[str, object], rows_per_file: int = 0, check: Callable[[], None] | None = None
    ) -> int:
        """Atomically replaces the partitions of `where` by `rows`; rows outside it make the whole write fail.

        `check` is called under the commit lock, and raises where what is there now forbids the write.
        """
        options = {"replaceWhere": where.sql(), "maxRecordsPerFile": str(rows_per_file)}  # 0 is no limit
        return self._write(table, rows, options, "overwrite", metadata, check)

    def frame(self, table: Table, rows: Sequence[Mapping[str, object]]) -> DataFrame:
        """A few rows of a declared table, as one file; columns by name."""
        return self.spark.createDataFrame([dict(row) for row in rows], row_type(table.fields)).coalesce(1)

    def append(self, table: str, rows: DataFrame, metadata: Mapping[str, object]) -> int:
        return self._write(table, rows, {}, "append", metadata)

    def _write(
        self, table: str, rows: DataFrame, options: Mapping[str, str], mode: str, metadata: Mapping[str, object], check: Callable[[], None] | None = None
    ) -> int:
        path = self.require(table)
        columns = self.spark.read.format("delta").load(path).columns
        unknown = sorted(set(rows.columns) - set(columns))
        if unknown:
            raise BadInput(f"table {table} in {self.root}: no column {', '.join(unknown)}, {ADD_COLUMNS}")
        writer = rows.select(*columns).write.format("delta").mode(mode).options(**options)
        with self.own_commit(table, metadata) as marked:
            if check is not None:
                check()
            try:
                writer.option("userMetadata", marked).save(path)
            except (DeltaConcurrentModificationException, Py4JJavaError) as error:
                conflict = conflict_of(error)
                if conflict is None:
                    raise
                raise CommitConflict(
                    f"table {table}: another process committed to the same days meanwhile ({conflict}); nothing of this write stands; run it again"
                ) from None
            return self.version(table)  # under the lock: of this write

    @contextmanager
    def own_commit(self, table: str, metadata: Mapping[str, object]) -> Iterator[str]:
        """Yields `metadata` as text, with a mark that the block's one commit has to carry; looks for it afterwards.

        The block runs under the commit lock. Raises `Infrastructure` when the table's log has the mark not exactly once.
        """
        path = self.require(table)
        mark = uuid.uuid4().hex  # tells this commit from every other, those of the same run included
        with self.commit_lock():
            if self.is_local:
                clear_unfinished(Path(path))
            before = self.version(table)
            yield json.dumps({**metadata, "commit": mark}, sort_keys=True, default=str)
            after = self.version(table)
            if after > before:  # no rows to append make no version
                entries = entries_of_files(Path(path), before, after) if self.is_local else entries_of_history(self.spark, path, before, after)
                require_once(table, entries, mark)

    def active_files(self, table: str, version: int, where: Where | None = None) -> list[ActiveFile]:
        """The snapshot's files with their row counts. Driver memory grows with files, never with rows."""
        picked = self.snapshot_files(table, version, where).select(
            "path", "partitionValues", F.get_json_object("stats", "$.numRecords").cast("bigint").alias("rows"), "deletionVector"
        )
        return [self._active_file(table, row.asDict()) for row in picked.orderBy("path").collect()]

    def snapshot_files(self, table: str, version: int | None = None, where: Where | None = None) -> DataFrame:
        """Delta's own rows about a snapshot's files: path, partitionValues, size in bytes, stats."""
        files = DataFrame(self._snapshot(table, version).allFiles().toDF(), self.spark)
        return files if where is None else _in_partitions(files, where)

    def _active_file(self, table: str, row: dict[str, object]) -> ActiveFile:
        if row["deletionVector"] is not None or row["rows"] is None:
            fault = "a deletion vector" if row["deletionVector"] is not None else "no row count"
            raise BadInput(
                f"table {table}, file {row['path']}: found {fault}, expected plain files with statistics; run OPTIMIZE or REORG TABLE ... APPLY (PURGE)"
            )
        path = str(row["path"])  # percent-encoded by Delta, relative to the table unless it has a scheme
        url = path if urlsplit(path).scheme else f"{self._url(table)}/{path}"
        return ActiveFile(url=url, rows=int(str(row["rows"])), partition=dict(row["partitionValues"]))  # type: ignore[call-overload]

    def _url(self, table: str) -> str:
        return Path(self.path(table)).as_uri() if self.is_local else self.path(table)

    def _snapshot(self, table: str, version: int | None) -> Any:
        """Delta's own snapshot (a JVM object), reached through the plan that a pinned read has."""
        plan = self.read(table, version)._jdf.queryExecution().analyzed()
        return plan.relation().location().getSnapshot()

    @contextmanager
    def commit_lock(self, patience: float = -1) -> Iterator[None]:
        """Held around commits on a local root; an object store's log store does this itself. Raises `filelock.Timeout` after `patience` seconds, if any."""
        if not self.is_local:
            yield
            return
        with filelock.FileLock(self.own_folder() / "commit.lock", timeout=patience):
            if self.standing is not None:
                self.standing()
            yield

    def own_folder(self, *names: str) -> Path:
        """A folder beside the tables for locks, made when it is missing; local roots only."""
        folder = Path(self.root, "_u2qt", *names)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "not writable")
        except OSError as error:
            raise Infrastructure(f"lakehouse {self.root}: can't be written ({error.strerror}); give a folder that this user may write as --root") from None
        return folder

    def register(self, tables: tuple[Table, ...]) -> None:
        """Makes the lakehouse's tables visible to SQL in this session's catalog."""
        for table in tables:
            if self.exists(table.name) and not self.spark.catalog.tableExists(table.name):
                self.spark.catalog.createTable(table.name, path=self.path(table.name), source="delta")


def _unspaced(check: str) -> str:
    """Delta keeps a constraint with spaces of its own."""
    return "".join(check.split())


def row_type(fields: Sequence[Field]) -> StructType:
    """Declared columns as Spark's type, comments included."""
    types = StructType.fromDDL(", ".join(f"{keys.name(field.name)} {field.type}" for field in fields))
    assert isinstance(types, StructType), "columns with names make a struct"
    return StructType([StructField(f.name, t.dataType, f.nullable, {"comment": f.comment}) for f, t in zip(fields, types, strict=True)])


def _in_partitions(files: DataFrame, where: Where) -> DataFrame:
    if where.days is not None:
        day = F.col("partitionValues").getItem(where.day_column).cast("date")
        files = files.where((day >= F.lit(where.days.first)) & (day <= F.lit(where.days.last)))
    for column, value in where.equals:
        files = files.where(F.col("partitionValues").getItem(column) == F.lit(value))
    return files if where.also is None else _in_partitions(files, where.also)


def on_days(rows: DataFrame, days: Days, column: str = "ds") -> DataFrame:
    """The rows of `days`; on a partition column only those partitions are read."""
    return rows.where((F.col(column) >= F.lit(days.first)) & (F.col(column) <= F.lit(days.last)))
