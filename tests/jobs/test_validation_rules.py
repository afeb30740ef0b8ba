"""Validation on literal rows of a small source: every reason code has its row."""

import json
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.raw_input import raw_rows
from jobs.validate_sources import counted_rows, delivery_outcomes
from jobs.validation_rules import _timestamp, checked_rows, clean_rows, quarantined_rows
from schemas.catalog import Catalog, CatalogHeader, Source
from schemas.catalog_files import load_catalog
from schemas.keys import Days

DAY = date(2026, 3, 1)
GOOD = {"uid": "u1", "at": "2026-03-01 10:00:00", "known": "2026-03-02 00:30:00", "id": "e1", "kind": "a", "n": "5", "note": "hi"}


def visits(**input_: str) -> Source:
    return Source.model_validate(
        {
            "name": "visits",
            "kind": "events",
            "description": "Visits.",
            "entity_key": {"from": "uid"},
            "event_time": {"from": "at", "format": "yyyy-MM-dd HH:mm:ss", "zone": "Asia/Shanghai"},
            "available_time": {"from": "known", "format": "yyyy-MM-dd HH:mm:ss", "zone": "Asia/Shanghai"},
            "dedup_key": ["id"],
            "input": {"format": "json", "path": "visits/{ds}", **input_},
            "template": "{kind} {note} {n:log2}",
            "columns": [
                {"name": "id", "type": "string", "comment": "Id.", "nullable": False},
                {"name": "kind", "type": "string", "role": "categorical", "comment": "Kind.", "categories": ["a", "b"]},
                {"name": "n", "type": "bigint", "role": "numeric", "comment": "Number.", "min": 0, "max": 9},
                {"name": "note", "type": "string", "role": "text", "comment": "Note.", "max_chars": 8},
            ],
        }
    )


def catalog(source: Source) -> Catalog:
    header = CatalogHeader(name="test", description="Test.", time_zone="Asia/Shanghai", delivery_lag="6h", sources=(source.name,))
    return Catalog(header=header, sources=(source,), suites={}, drift=load_catalog().drift, location="test")


def delivered(spark: SparkSession, folder: Path, rows: list[dict[str, object]], source: Source | None = None) -> DataFrame:
    """`rows` as a JSON delivery, read and checked."""
    source = source or visits()
    path = folder / "visits" / str(DAY)
    path.mkdir(parents=True)
    (path / "part.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return checked_rows(raw_rows(spark, source, str(folder), Days(DAY, DAY)), source, catalog(source))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"note": "שלום 🍺\n"}, []),
        ({"uid": None}, ["null:user_id"]),
        ({"uid": "  "}, ["null:user_id"]),
        ({"uid": "x" * 513}, ["too_long:user_id"]),
        ({"at": "yesterday"}, ["time_unparsable:event_time"]),
        ({"at": "2026-13-45 99:00:00"}, ["time_unparsable:event_time"]),
        ({"at": None}, ["null:event_time"]),
        ({"at": "2026-03-02 00:00:00"}, ["time_in_future:event_time"]),
        ({"known": "2026-03-01 09:59:59"}, ["available_before_event:available_time"]),
        ({"known": None}, ["null:available_time"]),
        ({"id": None}, ["null:id"]),
        ({"kind": "c"}, ["category:kind"]),
        ({"kind": None}, []),
        ({"n": "10"}, ["range:n"]),
        ({"n": "-1"}, ["range:n"]),
        ({"n": "five"}, ["type:n"]),
        ({"n": None}, []),
        ({"note": "a\u0000b"}, ["control_chars:note"]),
        ({"note": "x" * 9}, ["too_long:note"]),
        ({"uid": None, "n": "10", "kind": "c"}, ["null:user_id", "category:kind", "range:n"]),
    ],
)
def test_a_row_has_exactly_its_reasons(spark: SparkSession, tmp_path: Path, change: dict[str, object], reasons: list[str]) -> None:
    """All reasons are told, in a stable order."""
    row = delivered(spark, tmp_path, [{**GOOD, **change}, {**GOOD, "id": "other"}]).where("raw.id IS NULL OR raw.id <> 'other'").collect()[0]
    assert row.reasons == reasons


@pytest.mark.parametrize(
    ("role", "value", "reasons"), [("numeric", "3e38", []), ("numeric", "-1e39", ["type:x"]), ("ignore", "1e39", []), ("ignore", "1e999", ["type:x"])]
)
def test_a_number_too_large_for_a_feature_is_quarantined(spark: SparkSession, tmp_path: Path, role: str, value: str, reasons: list[str]) -> None:
    """Features are 32-bit floats: one infinite value would stop the day of all users when they are encoded."""
    declaration = visits().model_dump(by_alias=True)
    declaration["columns"] += ({"name": "x", "type": "double", "role": role, "comment": "Number."},)
    (row,) = delivered(spark, tmp_path, [{**GOOD, "x": value}], Source.model_validate(declaration)).collect()
    assert row.reasons == reasons


def test_moments_are_utc_and_the_day_is_the_zone_s(spark: SparkSession, tmp_path: Path) -> None:
    """00:30 in Shanghai is 16:30 UTC of the day before, and still that day."""
    row = delivered(spark, tmp_path, [{**GOOD, "at": "2026-03-01 00:30:00"}]).selectExpr("string(event_time) t", "string(ds) ds").collect()[0]
    assert (row.t, row.ds) == ("2026-02-28 16:30:00", "2026-03-01")


def test_an_offset_in_the_value_wins_over_the_zone(spark: SparkSession, tmp_path: Path) -> None:
    """ISO 8601 without a pattern: with an offset it is absolute, without one it is in the zone."""
    declaration = visits().model_dump(by_alias=True)
    declaration["event_time"] = {"from": "at", "zone": "Asia/Shanghai"}
    rows = [{**GOOD, "id": "a", "at": "2026-03-01T01:00:00Z"}, {**GOOD, "id": "b", "at": "2026-03-01T01:00:00"}]
    found = delivered(spark, tmp_path, rows, Source.model_validate(declaration)).selectExpr("raw.id", "string(event_time) t").collect()
    assert {row.id: row.t for row in found} == {"a": "2026-03-01 01:00:00", "b": "2026-02-28 17:00:00"}


def test_exact_duplicates_collapse_and_near_ones_do_not(spark: SparkSession, tmp_path: Path) -> None:
    """A null is not an empty text, and (null, 'a') is not ('a', null): comparison is by column and null-safe."""
    rows = [GOOD, GOOD, {**GOOD, "note": None}, {**GOOD, "note": ""}, {**GOOD, "kind": None, "note": "a"}, {**GOOD, "kind": "a", "note": None}]
    (counts,) = delivery_outcomes(delivered(spark, tmp_path, rows).withColumn("forgotten", F.lit(False)), visits()).collect()
    assert (counts.rows_in, counts.clean, counts.quarantined, counts.duplicates) == (6, 4, 0, 2)
    assert (counts.nulls["kind"], counts.nulls["note"]) == (1, 1)


def test_the_quarantined_row_is_whole(spark: SparkSession, tmp_path: Path) -> None:
    """Undeclared columns included."""
    rows = quarantined_rows(delivered(spark, tmp_path, [{**GOOD, "n": "99", "extra": "kept"}])).collect()
    assert rows[0].raw == {**GOOD, "n": "99", "extra": "kept"}


def test_a_broken_line_is_quarantined_as_such(spark: SparkSession, tmp_path: Path) -> None:
    """The line itself is kept."""
    (tmp_path / "visits" / str(DAY)).mkdir(parents=True)
    (tmp_path / "visits" / str(DAY) / "part.json").write_text(json.dumps(GOOD) + "\n{broken\n", encoding="utf-8")
    source = visits()
    checked = checked_rows(raw_rows(spark, source, str(tmp_path), Days(DAY, DAY)), source, catalog(source))
    assert clean_rows(checked, source).count() == 1
    bad = quarantined_rows(checked).collect()[0]
    assert bad.reasons[0] == "row_malformed:row"
    assert bad.raw["_corrupt_record"] == "{broken"


def test_iso_times_need_a_date_and_take_offsets_as_numbers(spark: SparkSession) -> None:
    """Spark would read a time alone as today's, and a zone's name as absolute: both would shift without a word."""
    texts = [
        "10:00:00",
        "2026-03-01 10:00:00 UTC",
        "2026-03-01 10:00:00 Europe/Berlin",
        "2026",
        "2026-03-01",
        "2026-03-01T10:00:00Z",
        "2026-03-01 10:00:00.25+02:00",
    ]
    rows = spark.createDataFrame([(text,) for text in texts], "text string")
    moments = rows.select(_timestamp(F.col("text"), None, "Asia/Shanghai").cast("string").alias("moment")).collect()
    assert [row.moment for row in moments] == [None, None, None, None, "2026-02-28 16:00:00", "2026-03-01 10:00:00", "2026-03-01 08:00:00.25"]


@pytest.mark.parametrize("files", [{}, {"part.json": ""}, {"_SUCCESS": ""}])
def test_an_empty_delivery_has_no_rows(spark: SparkSession, tmp_path: Path, files: dict[str, str]) -> None:
    """A folder that is there without content is a day without rows; whether that is allowed, `min_rows_per_day` says."""
    path = tmp_path / "visits" / str(DAY)
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(content)
    assert raw_rows(spark, visits(), str(tmp_path), Days(DAY, DAY)).count() == 0


def test_a_day_has_one_sum_whatever_is_read_beside_it(spark: SparkSession) -> None:
    """A torn line on another day of the range adds a column to all: no value here changed. A value that moved to another column did."""

    def summed(schema: str, *values: str | None) -> list[tuple[object, ...]]:
        rows = spark.createDataFrame([(values, DAY, "d")], f"raw struct<{schema}>, delivered_ds date, delivery_id string")
        return [tuple(row) for row in counted_rows(rows)]

    alone = summed("user: string, amount: string, note: string", "u1", "5", None)
    assert summed("_corrupt_record: string, amount: string, note: string, user: string", None, "5", None, "u1") == alone
    assert summed("user: string, amount: string, note: string", "u1", None, "5") != alone
    assert summed("user: string, amount: string, note: string", "u1", "5", "") != alone
