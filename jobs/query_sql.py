"""SQL of one reading statement over the lakehouse, and its rows as a table, CSV or JSON.

Reads whatever the statement names; writes nothing: a statement that Spark's own parser does not recognise as a query,
SHOW, DESCRIBE or EXPLAIN is refused before it runs. Rows are streamed, never collected.
"""

import csv
import io
import itertools
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from py4j.java_gateway import is_instance_of  # type: ignore[import-untyped]
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from rich.cells import cell_len

from jobs.context import Context
from jobs.errors import BadInput

Format = Literal["table", "csv", "json"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json")
TABLE_ROWS = 100  # shown by the table format
CELL_WIDTH = 60  # terminal columns; longer values are cut and end in an ellipsis

# What the parser builds for queries. A list of what is allowed, because some writers (EXECUTE IMMEDIATE, RESTORE,
# INSERT OVERWRITE DIRECTORY) are neither commands nor insert statements to Spark, and TRANSFORM runs a shell command.
QUERY_NODES = frozenset(
    {
        *("Project", "Filter", "Aggregate", "Sort", "GlobalLimit", "LocalLimit", "Offset", "Distinct", "Sample"),
        *("Join", "LateralJoin", "Union", "Intersect", "Except", "Generate", "Pivot", "Unpivot", "WithWindowDefinition"),
        *("SubqueryAlias", "UnresolvedSubqueryColumnAliases", "UnresolvedTVFAliases", "UnresolvedWith", "UnresolvedHaving"),
        *("UnresolvedRelation", "RelationTimeTravel", "UnresolvedTableValuedFunction", "UnresolvedInlineTable"),
        *("LocalRelation", "OneRowRelation", "PipeOperator", "UnresolvedHint", "RepartitionByExpression"),
    }
)
READING_COMMANDS = ("Show", "Describe")
CONDITION = re.compile(r"\[[A-Z][A-Z0-9_.]*\]")  # Spark's name of an error, at the head of its message
CALLERS_FAULT = ("07", "0A", "21", "22", "23", "42", "46", "54", "P0")  # SQLSTATE classes: of the statement or its data, such as syntax, a name, a limit


def run(context: Context, text: str) -> DataFrame:
    """The statement's rows, not computed yet. Raises `BadInput` for anything but one reading statement."""
    with _as_bad_input(context.spark):
        refused = writing_node(context.spark, text)
        if refused is not None:
            raise BadInput(
                f"sql: found a statement that does not only read ({refused}), expected one SELECT, WITH, SHOW, DESCRIBE "
                f"or EXPLAIN statement; tables change through u2qt's other commands only"
            )
        return context.spark.sql(text)


def writing_node(spark: SparkSession, text: str) -> str | None:
    """What in a statement does not only read, by Spark's name for it; None where it only reads."""
    return _writing_node(spark._jsparkSession.sessionState().sqlParser().parsePlan(text))


def _writing_node(plan: Any) -> str | None:
    """The first node of a parsed plan that is no part of a query, by Spark's name for it."""
    name = str(plan.getClass().getSimpleName()).rstrip("$")
    if name.startswith(READING_COMMANDS):
        return None
    if name == "ExplainCommand":
        return _writing_node(plan.logicalPlan())
    if name not in QUERY_NODES:
        return name
    below = (nodes.apply(i) for nodes in (plan.children(), plan.innerChildren()) for i in range(nodes.size()))
    return next((found for found in map(_writing_node, below) if found is not None), None)


def render(df: DataFrame, format: Format, limit: int = TABLE_ROWS) -> Iterator[str]:
    """Pieces of text to write one after the other. `limit` holds for the table format alone.

    csv: RFC 4180 with a header, NULL is empty, arrays, structs and maps are JSON. json: one object a line, NULL kept.
    Times are in the session's time zone. Raises `BadInput` where the data make the statement fail (a division by zero).
    """
    if format not in FORMATS:
        raise BadInput(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    with _as_bad_input(df.sparkSession):
        if format == "table":
            yield from _table(df, limit)
        elif format == "csv":
            yield from _csv(df)
        else:
            yield from _json(df)


def _csv(df: DataFrame) -> Iterator[str]:
    yield csv_line(df.columns)
    for row in _positional(df, _csv_text).toLocalIterator():
        yield csv_line(["" if value is None else value for value in row])


def csv_line(values: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _json(df: DataFrame) -> Iterator[str]:
    repeated = sorted({name for name in df.columns if df.columns.count(name) > 1})
    if repeated:
        raise BadInput(f"format json: the statement names {', '.join(repeated)} more than once, expected distinct names; use AS")
    whole = F.struct(*(df[quoted(name)] for name in df.columns))
    for row in df.select(F.to_json(whole, {"ignoreNullFields": "false"})).toLocalIterator():
        yield f"{row[0]}\n"


def _table(df: DataFrame, limit: int) -> Iterator[str]:
    rows = list(itertools.islice(_positional(df, _shown_text).limit(limit + 1).toLocalIterator(), limit + 1))
    cells = [["NULL" if value is None else shown(value) for value in row] for row in rows[:limit]]
    yield from aligned([shown(name) for name in df.columns], cells, _numeric(df.schema))
    if len(rows) > limit:
        yield f"({limit} rows shown, there are more: ORDER BY and LIMIT choose which; formats csv and json write all)\n"
    else:
        yield f"({len(rows)} {'row' if len(rows) == 1 else 'rows'})\n"


def aligned(header: list[str], cells: list[list[str]], numeric: Sequence[bool]) -> Iterator[str]:
    """Lines of columns two spaces apart, numbers to the right; widths are those of a terminal (CJK counts two)."""
    widths = [max(map(cell_len, column)) for column in zip(header, *cells, strict=True)]
    for row in (header, ["-" * width for width in widths], *cells):
        padding = [" " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)]
        parts = [pad + text if right else text + pad for text, pad, right in zip(row, padding, numeric, strict=True)]
        yield "  ".join(parts).rstrip() + "\n"


def shown(value: str) -> str:
    """One line that a terminal can't be made to misread: control characters escaped, cut at `CELL_WIDTH`."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in value[: 4 * CELL_WIDTH])
    if cell_len(text) <= CELL_WIDTH and len(value) <= 4 * CELL_WIDTH:
        return text
    while cell_len(text) > CELL_WIDTH - 1:
        text = text[: -max(1, math.ceil((cell_len(text) - CELL_WIDTH) / 2))]
    return text + "…"


def _positional(df: DataFrame, text: Any) -> DataFrame:
    """All columns as text, named by position: a statement may repeat a name."""
    names = [f"c{position}" for position in range(len(df.columns))]
    fields = zip(names, df.schema.fields, strict=True)
    return df.toDF(*names).select(*(text(F.col(name), field.dataType).alias(name) for name, field in fields))


def _shown_text(column: Column, type: T.DataType) -> Column:
    return F.hex(column) if isinstance(type, T.BinaryType) else column.cast("string")


def _csv_text(column: Column, type: T.DataType) -> Column:
    nested = isinstance(type, T.ArrayType | T.StructType | T.MapType)
    return F.to_json(column, {"ignoreNullFields": "false"}) if nested else _shown_text(column, type)


def _numeric(schema: T.StructType) -> list[bool]:
    return [isinstance(field.dataType, T.NumericType) for field in schema.fields]


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


@contextmanager
def _as_bad_input(spark: SparkSession) -> Iterator[None]:
    """Turns Spark's errors that the statement or its data caused into `BadInput`; Spark's own log of them is held back."""
    log = logging.getLogger("SQLQueryContextLogger")  # writes each error with its Java stack to stderr
    was = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        message = _callers_fault(spark, error)
        if message is None:
            raise
        condition = CONDITION.match(message)  # what follows may quote the statement or a user's value
        kept = f"sql: {condition[0] if condition else 'refused'}"
        raise BadInput(f"sql: {message}\nTables and views: {', '.join(_names(spark))}", kept=kept) from None
    finally:
        log.setLevel(was)


def _callers_fault(spark: SparkSession, error: PySparkException | Py4JJavaError) -> str | None:
    """First line of Spark's message when its SQLSTATE lays the error at the statement's door."""
    if isinstance(error, PySparkException):
        state, message = error.getSqlState(), str(error)
    else:
        cause = error.java_exception
        throwable = "org.apache.spark.SparkThrowable"
        while not (known := is_instance_of(_gateway(spark), cause, throwable) and cause.getSqlState()):
            if cause.getCause() is None:
                break
            cause = cause.getCause()
        state, message = (cause.getSqlState(), cause.getMessage()) if known else (None, "")
    if state is None or not str(state).startswith(CALLERS_FAULT):
        return None
    return next(line for line in str(message).splitlines() if line.strip())


def _gateway(spark: SparkSession) -> Any:
    return spark.sparkContext._gateway


def _names(spark: SparkSession) -> list[str]:
    return sorted(row.tableName for row in spark.sql("SHOW TABLES").collect())
