"""Reading the ledger: the rows of a day, and what a row's columns say to a person."""

import json
from collections.abc import Mapping
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


def of_day(runs: DataFrame, ds: date) -> DataFrame:
    """The rows whose days include `ds`."""
    return runs.where((F.col("ds_from") <= F.lit(ds)) & (F.col("ds_to") >= F.lit(ds)))


def days_worked() -> Column:
    """How many days the row's counts are of: a chunk of days is one row."""
    return (F.datediff("ds_to", "ds_from") + 1).alias("days")


def plain_rows(rows: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The hops of the whole stage, by name; those of one source (`bill.clean`) are left out."""
    return tuple(sorted((hop, count) for hop, count in rows.items() if "." not in hop))


def error_text(detail: str | None) -> str:
    """The error that the ledger noted, or nothing."""
    notes = json.loads(detail) if detail else {}
    return str(notes.get("error", "")) if isinstance(notes, dict) else ""
