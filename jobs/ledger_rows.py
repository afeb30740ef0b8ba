"""Reading the ledger: the rows of a day, and what a row's columns say to a person."""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


def of_day(runs: DataFrame, ds: date) -> DataFrame:
    """The rows whose days include `ds`; not those that only adjust what a later run compares with."""
    return runs.where(F.col("status") != "adjusted").where((F.col("ds_from") <= F.lit(ds)) & (F.col("ds_to") >= F.lit(ds)))


def of_version(runs: DataFrame, version: str | None) -> DataFrame:
    """Without rows of another tokenizer version than `version`; all of them where it is None. Rows that name none stay."""
    if version is None:
        return runs
    named = F.filter(F.coalesce(F.transform("states", lambda s: s["tokenizer_version"]), F.array().cast("array<string>")), lambda v: v.isNotNull())
    return runs.where((F.size(named) == 0) | F.array_contains(named, version))


def days_worked() -> Column:
    """How many days the row's counts are of: a chunk of days is one row."""
    return (F.datediff("ds_to", "ds_from") + 1).alias("days")


def plain_rows(rows: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The hops of the whole stage, by name; those of one source (`bill.clean`) are left out."""
    return tuple(sorted((hop, count) for hop, count in rows.items() if "." not in hop))


def error_text(detail: str | None) -> str:
    """The error that the ledger noted, or nothing."""
    return _noted(detail, "error")


def accepted_text(detail: str | None) -> str:
    """The reason with which a blocked day was published, or nothing."""
    return _noted(detail, "accepted")


def column_lines(detail: str | None) -> tuple[str, ...]:
    """Columns that a validation found beside its sources' declarations, or nothing."""
    notes = json.loads(detail) if detail else {}
    return tuple(f"{what} {', '.join(names)}" for what, names in notes.items() if what.endswith(" columns"))


def drift_lines(drift: str | None) -> tuple[str, ...]:
    """What an audit's gates on earlier days had to say: those that warned or blocked, then what they could not know."""
    found = json.loads(drift) if drift else {}
    spoken = [m for severity in ("block", "warn") for m in found.get("measures", ()) if m["severity"] == severity]
    return (*(_drift_line(measure) for measure in spoken), *([found["note"]] if found.get("note") else []))


def drift_counts(drift: str | None) -> tuple[int, int]:
    """How many of an audit's gates on earlier days warned, and how many blocked."""
    severities = [measure["severity"] for measure in (json.loads(drift) if drift else {}).get("measures", ())]
    return severities.count("warn"), severities.count("block")


def _drift_line(measure: Mapping[str, Any]) -> str:
    level = f" level {measure['level']}" if measure["level"] else ""
    source = f" of {measure['source']}" if measure["source"] else ""
    column = f" {measure['column']}" if measure.get("column") else ""  # absent in audits of an earlier release
    return f"{measure['severity']} {measure['gate']}{source}{column}{level}: {measure['value']:.3f} ({measure['found']:,.6g}, before {measure['usual']:,.6g})"


def _noted(detail: str | None, name: str) -> str:
    notes = json.loads(detail) if detail else {}
    return str(notes.get(name, "")) if isinstance(notes, dict) else ""
