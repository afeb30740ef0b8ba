"""Raw rows as their owner delivers them, brought to one form: every raw column as text, plus delivery and day.

Reads whatever format the declaration names; judges nothing about values. Column `raw` is a struct of strings, so that
rows can be compared whole and null-safely and kept whole in quarantine.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StringType, StructField, StructType, TimestampType

from jobs.errors import BadInput
from jobs.machine_faults import infrastructure_of
from schemas.catalog import Source
from schemas.keys import Days

CORRUPT = "_corrupt_record"
FOOTERS_AT_ONCE = 8  # each mostly waits for its store
NESTED = (StructType, ArrayType, MapType)
ISO_UTC = "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"
READ_FAULTS = re.compile(r"FAILED_READ_FILE|CANNOT_READ|not a Parquet file|Could not read footer|PATH_NOT_FOUND|CSV_HEADER|UNABLE_TO_INFER|MALFORMED")


@dataclass(kw_only=True, slots=True)
class ColumnNotes:
    """Columns of an input that differ from the declaration without stopping it."""

    undeclared: set[str] = field(default_factory=set)  # gained: kept in quarantine and compared in duplicates, else ignored
    absent: set[str] = field(default_factory=set)  # nullable fields that a day's JSON has in no row: NULL
    of_day: dict[date, set[str]] = field(default_factory=dict)  # all columns of a day's folder, in lower case

    def lines(self) -> dict[str, list[str]]:
        """As the ledger keeps them; nothing where nothing differs."""
        found = {"undeclared columns": sorted(self.undeclared), "absent columns": sorted(self.absent)}
        return {what: names for what, names in found.items() if names}


def raw_rows(spark: SparkSession, source: Source, input_root: str, days: Days, notes: ColumnNotes | None = None) -> DataFrame:
    """Columns: raw STRUCT of strings, delivered_ds DATE, delivery_id STRING. Raises `BadInput` for what can't be read."""
    notes = notes or ColumnNotes()
    if source.input.delivered_ds is not None:
        return _from_column(spark, source, input_root, days, notes)
    frames = [_from_folder(spark, source, input_root, ds, notes) for ds in days]
    rows = frames[0]
    for frame in frames[1:]:
        rows = rows.unionByName(frame, allowMissingColumns=True)
    return _packed(rows, source)


def resolve(input_root: str, path: str) -> str:
    """Relative paths start from the input root; absolute ones and URIs stand."""
    return path if path.startswith("/") or "://" in path else f"{input_root.rstrip('/')}/{path}"


def located(source: Source, input_root: str, ds: date | None = None) -> str:
    """Where the rows (of `ds`) lie. A relative path stays in a local input root, links followed: `BadInput` where one leads out.

    An absolute path or a URI is where the declaration says that it is, and nothing is asked of it.
    """
    declared = source.input.path if ds is None else source.input.path.replace("{ds}", str(ds))
    path = resolve(input_root, declared)
    if path == declared or ("://" in input_root and not input_root.startswith("file://")):
        return path
    root, place = (Path(unquote(urlsplit(p).path) if p.startswith("file://") else p) for p in (input_root, path))
    for entry in (place, *(below for below in place.rglob("*") if below.is_symlink())):
        if not entry.resolve().is_relative_to(root.resolve()):
            raise BadInput(
                f"source {source.name}: {entry} leads to {entry.resolve()}, expected files inside {root}; "
                f"put them there, or declare their absolute path in sources/{source.name}.yaml"
            )
    return path


def path_exists(spark: SparkSession, path: str) -> bool:
    hadoop = spark.sparkContext._gateway.jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
    return bool(hadoop.getFileSystem(spark._jsc.hadoopConfiguration()).exists(hadoop))


def has_files(spark: SparkSession, path: str) -> bool:
    """Whether a file or folder has content; an empty folder, or only empty files, is a delivery without rows."""
    hadoop = spark.sparkContext._gateway.jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
    listed = hadoop.getFileSystem(spark._jsc.hadoopConfiguration()).listStatus(hadoop)
    shown = (status for status in listed if not str(status.getPath().getName()).startswith(("_", ".")))
    return any(status.isDirectory() or status.getLen() > 0 for status in shown)


def read_fault(error: Exception) -> str | None:
    """The first line of `error` when it says that input could not be read, else None."""
    text = str(error)
    if not READ_FAULTS.search(text):
        return None
    line = next((part for part in text.splitlines() if READ_FAULTS.search(part)), text.splitlines()[0])
    return line.strip()[:300]


def _from_folder(spark: SparkSession, source: Source, input_root: str, ds: date, notes: ColumnNotes) -> DataFrame:
    path = located(source, input_root, ds)
    if not path_exists(spark, path):
        raise BadInput(
            f"source {source.name}, {ds}: nothing delivered at {path}, expected its {source.input.format} files; "
            f"check --input and --ds (the day may lie after the last delivered one), or wait for the delivery"
        )
    rows = _text_columns(_of_one_shape(_read(spark, source, path), source, path, notes), source, path, notes)
    notes.of_day[ds] = {name.lower() for name in rows.columns}
    return rows.withColumn("__delivered_ds", F.lit(ds))


def _from_column(spark: SparkSession, source: Source, input_root: str, days: Days, notes: ColumnNotes) -> DataFrame:
    path = located(source, input_root)
    if not path_exists(spark, path):
        raise BadInput(f"source {source.name}: nothing at {path}, expected its {source.input.format} files; check --input")
    rows = _text_columns(_read(spark, source, path), source, path, notes)
    day = F.col(f"`{_escaped(str(source.input.delivered_ds))}`").try_cast("date")
    dated = rows.withColumn("__delivered_ds", day)
    if not dated.where(F.col("__delivered_ds").isNull()).isEmpty():
        raise BadInput(
            f"source {source.name}, {path}: column {source.input.delivered_ds} holds values that are no date, "
            f"expected the day of delivery in every row; correct them, or name another delivered_ds column"
        )
    chosen = dated.where((F.col("__delivered_ds") >= F.lit(days.first)) & (F.col("__delivered_ds") <= F.lit(days.last)))
    return _packed(chosen, source)


def last_delivered(spark: SparkSession, source: Source, input_root: str) -> date | None:
    """Last day of delivery in an input that names it by a column; None for one folder a day."""
    if source.input.delivered_ds is None:
        return None
    rows = _read(spark, source, located(source, input_root))
    last = rows.select(F.max(F.col(f"`{_escaped(source.input.delivered_ds)}`").try_cast("date")).alias("last")).first()
    return last["last"] if last else None


def _read(spark: SparkSession, source: Source, path: str) -> DataFrame:
    options = dict(source.input.options)
    if source.input.delivered_ds is None and source.input.format != "delta" and not has_files(spark, path):
        return spark.createDataFrame([], StructType([StructField(name, StringType()) for name in needed_columns(source)]))
    try:
        if source.input.format == "csv":
            return _csv(spark, path, options)
        if source.input.format == "json":
            options = {"primitivesAsString": "true", "columnNameOfCorruptRecord": CORRUPT, **options}
        return spark.read.format(source.input.format).options(**options).load(path)
    except AnalysisException as error:
        raise _unreadable(source, path, error) from None
    except Exception as error:
        if read_fault(error) is None:
            raise
        raise _unreadable(source, path, error) from None


def _unreadable(source: Source, path: str, error: Exception) -> BadInput:
    cause = read_fault(error) or str(error).splitlines()[0][:300]
    return BadInput(
        f"source {source.name}: can't read {path} as {source.input.format} ({cause}); expected whole files of that format; ask the owner to deliver again"
    )


def _of_one_shape(rows: DataFrame, source: Source, path: str, notes: ColumnNotes) -> DataFrame:
    """Spark takes a Parquet folder's columns from one of its files. Raises `BadInput` where another lacks a declared one; others' further columns are read too.

    Cost: a footer per file.
    """
    files = rows.inputFiles() if source.input.format == "parquet" and "mergeSchema" not in source.input.options else []
    if len(files) < 2:
        return rows
    spark = rows.sparkSession
    conf = spark._jsparkSession.sessionState().newHadoopConf()
    known: dict[str, frozenset[str]] = {}  # columns by the schema's text
    try:
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            found = zip(files, pool.map(lambda file: _footer_columns(spark, conf, file, known), files), strict=True)
            columns = {file: names for file, names in found if names}
    except (Py4JJavaError, PySparkException) as error:
        if read_fault(error) is None and infrastructure_of(error) is not None:
            raise
        raise _unreadable(source, path, error) from None
    every = {name for names in columns.values() for name in names}
    for name in needed_columns(source):
        lacking = sorted(file for file, names in columns.items() if name.lower() not in names)
        if lacking and name.lower() in every:
            raise BadInput(
                f"source {source.name}, {lacking[0]}: no column {name}, which other files of this input have ({len(lacking)} of {len(columns)} lack it), "
                f"expected it in all of them; ask the owner what became of it"
            )
    if all(names == every for names in columns.values()):
        return rows
    try:
        return spark.read.format("parquet").options(**dict(source.input.options) | {"mergeSchema": "true"}).load(path)
    except (Py4JJavaError, PySparkException):  # types that Spark widens while it reads, and not in a schema: the further columns are noted alone
        notes.undeclared |= every - {name.lower() for name in needed_columns(source)}
        return rows


def _footer_columns(spark: SparkSession, conf: Any, file: str, known: dict[str, frozenset[str]]) -> frozenset[str]:
    """Of a Parquet file, in lower case, as Spark compares them; none of an empty file, which Spark passes over."""
    jvm = spark._jvm
    assert jvm is not None, "a session has its Java"
    stored = jvm.org.apache.parquet.hadoop.util.HadoopInputFile.fromPath(jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(file)), conf)
    if not stored.getLength():
        return frozenset()
    reader = jvm.org.apache.parquet.hadoop.ParquetFileReader.open(stored)
    try:
        schema = reader.getFileMetaData().getSchema()
        text = schema.toString()
        if text not in known:  # a call per column, once per schema
            known[text] = frozenset(field.getName().lower() for field in schema.getFields())
        return known[text]
    finally:
        reader.close()


def _csv(spark: SparkSession, path: str, options: dict[str, str]) -> DataFrame:
    """All columns as strings; a line that does not fit the header keeps its text in the corrupt-record column."""
    options = {"header": "true", "enforceSchema": "false", "escape": '"', **options}
    header = spark.read.options(**options).csv(path).columns
    schema = StructType([StructField(name, StringType()) for name in (*header, CORRUPT)])
    return spark.read.options(**options, columnNameOfCorruptRecord=CORRUPT).schema(schema).csv(path)


def _text_columns(rows: DataFrame, source: Source, path: str, notes: ColumnNotes) -> DataFrame:
    """Every column as text. Refuses an input that lacks a declared raw column, or has a nested one in its place."""
    needed = needed_columns(source)
    missing = [name for name in needed if name not in rows.columns]
    nested = [f"{f.name} ({f.dataType.typeName()})" for f in rows.schema.fields if f.name in needed and isinstance(f.dataType, NESTED)]
    if nested:
        raise BadInput(
            f"source {source.name}, {path}: column {', '.join(nested)} has nested values, expected single ones; ask the owner what became of it, "
            f"or name columns that hold single values in sources/{source.name}.yaml"
        )
    notes.undeclared |= set(rows.columns) - set(needed) - {CORRUPT}
    if source.input.format == "json":  # a field that is null on a whole day is not in that day's files
        found = {name.lower() for name in rows.columns}  # Spark can't tell two names apart by their case
        nullable = {c.source_column for c in source.columns if c.nullable and c.source_column.lower() not in found}
        rows = rows.select("*", *(F.lit(None).cast("string").alias(name) for name in missing if name in nullable))
        notes.absent |= {name for name in missing if name in nullable}
        missing = [name for name in missing if name not in nullable]
    if missing:
        shown = named_columns(rows.columns, needed) if source.input.format == "csv" else ", ".join(rows.columns)
        raise BadInput(
            f"source {source.name}, {path}: no column {', '.join(missing)}, found {shown}; "
            f"correct `from` in sources/{source.name}.yaml, or ask the owner what became of it"
        )
    return rows.select(*(_as_text(field.name, field.dataType).alias(field.name) for field in rows.schema.fields))


def named_columns(found: Sequence[str], expected: Sequence[str]) -> str:
    """The names of `found`; only their number where none of them is expected, for then they may be the first row of a file without a header."""
    names = [name for name in found if name != CORRUPT]
    return ", ".join(names) if {*names} & {*expected} else f"{len(names)} columns, none of them expected (is the header line missing?)"


def _as_text(name: str, type_: DataType) -> Column:
    column = F.col(f"`{_escaped(name)}`")
    if isinstance(type_, TimestampType):
        return F.date_format(column, ISO_UTC)
    if isinstance(type_, NESTED):
        return F.to_json(column)
    return column.cast("string")


def needed_columns(source: Source) -> list[str]:
    times = [t.raw_name for t in (source.event_time, source.available_time) if t is not None]
    declared = [source.input.delivered_ds, source.input.delivery_id]
    names = [source.entity_key.raw_name, *times, *(c.source_column for c in source.columns), *(d for d in declared if d)]
    return list(dict.fromkeys(names))


def _packed(rows: DataFrame, source: Source) -> DataFrame:
    raw = [name for name in rows.columns if name != "__delivered_ds"]
    default = F.concat(F.lit(f"{source.name}-"), F.col("__delivered_ds").cast("string"))
    named = source.input.delivery_id
    delivery = F.coalesce(F.col(f"`{_escaped(named)}`"), default) if named else default
    return rows.select(
        F.struct(*(F.col(f"`{_escaped(name)}`") for name in raw)).alias("raw"),
        F.col("__delivered_ds").alias("delivered_ds"),
        delivery.alias("delivery_id"),
    )


def _escaped(name: str) -> str:
    return name.replace("`", "``")
