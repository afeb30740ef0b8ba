"""Labels for `evaluate_tokens`: checked, sampled, and collected. The only user rows that reach Spark's driver as rows.

At most `max_labels` of them, the same ones whatever the partitions: those with the least hash of (user, moment).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.errors import BadInput
from jobs.point_in_time import label_moment, quoted
from jobs.raw_input import named_columns

Ints = NDArray[np.int64]
WORDS = {"true": 1, "t": 1, "1": 1, "1.0": 1, "false": 0, "f": 0, "0": 0, "0.0": 0}
SAMPLED = "label_id INT, user_id STRING, at TIMESTAMP"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """N labels, position = label_id."""

    users: tuple[str, ...]
    moments: Ints  # (N,) microseconds since 1970, UTC
    labels: Ints  # (N,) 0 or 1
    found: int  # labels in the input

    @property
    def persons(self) -> Ints:
        """(N,) users as numbers from 0."""
        return np.unique(self.users, return_inverse=True)[1].astype(np.int64)

    def frame(self, spark: SparkSession) -> DataFrame:
        """label_id, user_id, at."""
        moments = pd.to_datetime(self.moments, unit="us", utc=True)
        rows = pd.DataFrame({"label_id": np.arange(len(self.users), dtype=np.int32), "user_id": self.users, "at": moments})
        return spark.createDataFrame(rows, SAMPLED)

    def only(self, rows: Ints) -> "Sample":
        return Sample(users=tuple(self.users[i] for i in rows), moments=self.moments[rows], labels=self.labels[rows], found=self.found)


def sampled(labels: DataFrame, *, name: str, user: str, at: str | datetime, label: str, time_zone: str, max_labels: int) -> Sample:
    """`at` is a column of `labels`, or one moment for all. `BadInput` names what a label lacks."""
    wanted = (user, label) if isinstance(at, datetime) else (user, at, label)
    _require_columns(labels, name, wanted)
    if not isinstance(labels.schema[user].dataType, T.StringType):
        raise BadInput(
            f"labels {name}, column {user}: found type {labels.schema[user].dataType.simpleString()}, expected string as in the tokens; cast it first"
        )
    moment = F.lit(at.isoformat()).cast("timestamp") if isinstance(at, datetime) else label_moment(labels, at, time_zone)
    rows = labels.select(F.col(quoted(user)).alias("user_id"), F.unix_micros(moment).alias("at"), _as_number(labels, label).alias("label"))
    counts = rows.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_if(F.col("user_id").isNull()).alias("users"),
        F.count_if(F.col("at").isNull()).alias("times"),
        F.count_if(F.col("label").isNull() | F.isnan("label")).alias("labels"),
        F.count_if((F.col("label") != 0) & (F.col("label") != 1) & ~F.isnan("label")).alias("other"),
    ).collect()[0]
    for column, missing in ((user, counts["users"]), (at, counts["times"]), (label, counts["labels"])):
        if missing:
            raise BadInput(
                f"labels {name}, column {column}: found NULL, NaN or unreadable in {missing} of {counts['rows']} rows, expected a value in each; drop those"
            )
    if counts["other"]:
        raise BadInput(
            f"labels {name}, column {label}: found {counts['other']} values other than 0 and 1, expected 0, 1, true or false; make one column per class"
        )
    kept = rows.orderBy(F.xxhash64("user_id", "at"), "user_id", "at", "label").limit(max_labels).toPandas()
    sample = Sample(users=tuple(kept["user_id"]), moments=kept["at"].to_numpy(np.int64), labels=kept["label"].to_numpy(np.int64), found=counts["rows"])
    require_both_classes(sample, name, label)
    return sample


def require_both_classes(sample: Sample, name: str, label: str) -> None:
    positive = int(sample.labels.sum())
    if positive in (0, len(sample.labels)):
        raise BadInput(
            f"labels {name}, column {label}: found {positive} positive of {len(sample.labels)} rows, expected both classes; give labels of the other class too"
        )


def _require_columns(labels: DataFrame, name: str, wanted: Sequence[str]) -> None:
    for column in wanted:
        if labels.columns.count(column) != 1:
            others = named_columns(labels.columns, wanted)
            raise BadInput(
                f"labels {name}: column {column} found {labels.columns.count(column)} times, expected once; found {others}; use --user, --at or --label"
            )


def _as_number(labels: DataFrame, label: str) -> Column:
    """DOUBLE; NULL where a text is no yes or no."""
    column, type = F.col(quoted(label)), labels.schema[label].dataType
    if not isinstance(type, T.StringType | T.NumericType | T.BooleanType):
        raise BadInput(f"labels, column {label}: found type {type.simpleString()}, expected 0, 1, true or false as numbers, words or booleans")
    if not isinstance(type, T.StringType):
        return column.cast("double")
    words = F.create_map(*(F.lit(part) for pair in WORDS.items() for part in pair))
    return F.try_element_at(words, F.lower(F.trim(column))).cast("double")
