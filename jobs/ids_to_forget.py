"""The file of ids to forget: text, one id a line, or CSV or Parquet with a column `user_id`. Its rows stay with Spark.

No id reaches the driver, a message or a plan: what is wrong with the file is said by its name, a line or a count.
"""

import codecs
from pathlib import Path

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, IntegralType, StringType

from jobs.errors import BadInput
from jobs.forgotten_ids import plain
from jobs.machine_faults import infrastructure_of
from jobs.raw_input import read_fault

COLUMN = "user_id"
CHUNK = 1 << 20
EXPECTED = "expected .txt with one id a line, or .csv or .parquet with a column user_id"
WILDCARDS = set("*?[]{}\\")


def read_ids(spark: SparkSession, users: Path) -> DataFrame:
    """user_id, distinct, in the form in which ids are compared; the file is not read again. Raises `BadInput`."""
    if not users.is_file():
        raise BadInput(f"--users {users}: no such file; {EXPECTED}")
    if set(str(users.resolve())) & WILDCARDS:
        raise BadInput(f"--users {users}: found one of {' '.join(sorted(WILDCARDS))} in the path, expected a path without; rename it")
    try:
        values = _values(spark, users)
        ids = values.select(plain(F.col(COLUMN)).alias(COLUMN)).where(F.col(COLUMN).isNotNull()).distinct().localCheckpoint()
    except (PySparkException, Py4JJavaError) as error:
        if read_fault(error) is None and infrastructure_of(error) is not None:
            raise
        raise BadInput(f"--users {users}: can't be read ({type(error).__name__}); {EXPECTED}") from None
    if ids.isEmpty():
        raise BadInput(f"--users {users}: found no id; {EXPECTED}")
    return ids


def _values(spark: SparkSession, users: Path) -> DataFrame:
    path = f"file://{users.resolve()}"
    if users.suffix == ".parquet":
        return _column(spark.read.parquet(path), users)
    if users.suffix not in (".txt", ".csv"):
        raise BadInput(f"--users {users}: found {users.suffix or 'a name without ending'}; {EXPECTED}")
    _require_text(users)
    if users.suffix == ".csv":
        return _column(spark.read.options(header="true", escape='"', ignoreLeadingWhiteSpace="true").csv(path), users)
    return spark.read.text(path).select(F.col("value").alias(COLUMN))


def _column(rows: DataFrame, users: Path) -> DataFrame:
    named = [field for field in rows.schema.fields if field.name.strip("\ufeff ") == COLUMN]
    if len(named) != 1:
        raise BadInput(f"--users {users}: found {len(named)} columns {COLUMN} among {len(rows.columns)}; {EXPECTED}")
    if not isinstance(named[0].dataType, StringType | BinaryType | IntegralType):
        raise BadInput(f"--users {users}: found {named[0].dataType.simpleString()} in column {COLUMN}, expected text")
    return rows.select(F.col(f"`{named[0].name}`").cast("string").alias(COLUMN))


def _require_text(users: Path) -> None:
    """Reads the file once, in pieces: a picture or an archive given by mistake must not become ids."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    try:
        with users.open("rb") as file:
            while piece := file.read(CHUNK):
                text = decoder.decode(piece)
                if "\0" in text:
                    raise BadInput(f"--users {users}, line {line + text[: text.index(chr(0))].count(chr(10))}: found a NUL; {EXPECTED}")
                line += text.count("\n")
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise BadInput(f"--users {users}, after line {line}: found bytes that are not UTF-8; {EXPECTED}") from None
    except OSError as error:
        raise BadInput(f"--users {users}: can't be read ({error.strerror}); {EXPECTED}") from None
