"""The gate: every expectation of the packaged suites has a case in which it fails, and what can't run has failed."""

import json
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import quality
from jobs.errors import BadInput
from jobs.machine_faults import infrastructure_of

LAYOUT: dict[str, Any] = {
    "sources": [
        {"name": "a", "kind": "events", "levels": [{"level": 1, "codebook_size": 4}, {"level": 2, "codebook_size": 8}]},
        {"name": "p", "kind": "profile", "levels": [{"level": 1, "codebook_size": 16}]},
    ],
}
FEATURES: dict[str, Any] = {
    "sources": [
        {"name": "a", "kind": "events", "num_ids": 1, "num_values": 1, "max_events": 2},
        {"name": "p", "kind": "profile", "num_ids": 1, "num_values": 2, "max_events": 1},
    ]
}
TOKEN = (
    "SELECT 'u{n}' user_id, DATE'2026-01-01' ds, 'v1' tokenizer_version, timestamp'2026-01-02' available_at, {n}L row_hash, "
    "array(3s, 7s) a_codes, CAST(NULL AS array<smallint>) p_codes"
)
FEATURE = (
    "SELECT CAST('u{n}' AS BINARY) user_id, DATE'2026-01-01' ds, timestamp'2026-01-02' available_at, {n}L row_hash, CAST('t' AS BINARY) a_text, 1 a_count, "
    "array(5, 0) a_event_ids, array(1f, 0f) a_event_values, array(1, 0) a_mask, 1 p_count, array(1) p_ids, array(1f, 2f) p_values"
)


def two_rows(spark: SparkSession, template: str, **change: str) -> DataFrame:
    """Two right rows, the second with some columns replaced by SQL."""
    second = spark.sql(template.format(n=2)).selectExpr("*")
    for name, sql in change.items():
        second = second.selectExpr(*(f"{sql} AS {c}" if c == name else c for c in second.columns))
    return spark.sql(template.format(n=1)).unionByName(second)


def failed(rows: DataFrame, suite: quality.Suite) -> list[tuple[str, str | None]]:
    result = quality.evaluate(rows, suite)
    assert result.success == (not result.failures)
    return [(f.expectation, f.column) for f in result.failures]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"user_id": "'u1'"}, [("expect_compound_columns_to_be_unique", "user_id, ds, tokenizer_version")]),
        ({"user_id": "''"}, [("keys_present", None)]),
        ({"a_codes": "array(3s)"}, [("codes_complete", "a")]),
        ({"a_codes": "array(3s, NULL)"}, [("codes_complete", "a")]),
        ({"a_codes": "array(4s, 7s)"}, [("codes_in_range", "a")]),
        ({"p_codes": "array(3s, -1s)"}, [("codes_in_range", "p")]),
        ({"a_codes": "CAST(NULL AS array<smallint>)"}, [("some_source_present", "a, p")]),
    ],
)
def test_the_token_suite_tells_what_is_wrong(spark: SparkSession, change: dict[str, str], expected: list[tuple[str, str | None]]) -> None:
    """With the sources that break a rule."""
    found = failed(two_rows(spark, TOKEN, **change), quality.packaged_suite("user_tokens.json", LAYOUT, rows=2))
    assert [f for f in found if f in expected] == expected
    assert bool(found) == bool(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"user_id": "CAST('u1' AS BINARY)"}, "expect_compound_columns_to_be_unique"),
        ({"row_hash": "CAST(NULL AS BIGINT)"}, "keys_present"),
        ({"a_text": "CAST('' AS BINARY)"}, "text_empty_iff_absent"),
        ({"a_event_ids": "array(5)"}, "arrays_of_fixed_length"),
        ({"a_mask": "array(1, 1)"}, "mask_counts_events"),
        ({"p_count": "2"}, "profile_of_fixed_length"),
        ({"a_count": "0"}, "some_event_source_present"),
    ],
)
def test_the_feature_suite_tells_what_is_wrong(spark: SparkSession, change: dict[str, str], expected: str | None) -> None:
    """One broken column at a time."""
    names = [name for name, _ in failed(two_rows(spark, FEATURE, **change), quality.packaged_suite("user_features.json", FEATURES, rows=2))]
    assert (names == []) if expected is None else (expected in names)


def test_a_row_too_many_or_too_few_fails_and_an_empty_table_too(spark: SparkSession) -> None:
    """The row count is exact: an empty table would pass everything else."""
    suite = quality.packaged_suite("user_tokens.json", LAYOUT, rows=3)
    rows = two_rows(spark, TOKEN)
    for frame in (rows, rows.limit(0)):
        assert [name for name, _ in failed(frame, suite)] == ["expect_table_row_count_to_equal"]


def test_offending_rows_are_named_by_hash_alone(spark: SparkSession) -> None:
    """No ids, no content."""
    rows = two_rows(spark, TOKEN, a_codes="array(4s, 7s)")
    failure = quality.evaluate(rows, quality.packaged_suite("user_tokens.json", LAYOUT, rows=2)).failures[0]
    assert quality.failing_row_hashes(rows, failure, 5) == [2]
    assert str(failure) == "codes_in_range on a failed: 1 unexpected"


def test_a_column_that_is_not_there_fails_with_its_name(spark: SparkSession) -> None:
    """GX alone would answer with a stack trace in a field."""
    suite = quality.load_suite('{"name": "s", "expectations": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "nope"}}]}', "s.json")
    result = quality.evaluate(spark.range(1).toDF("id"), suite)
    assert (result.success, result.evaluated, str(result.failures[0])) == (False, 0, "expect_column_values_to_not_be_null on nope failed (no such column)")


def test_a_rule_that_can_not_run_fails(spark: SparkSession) -> None:
    """A condition on an unknown column."""
    suite = quality.load_suite('{"name": "s", "expectations": [{"name": "r", "where": "nope = 1"}]}', "s.json")
    result = quality.evaluate(spark.range(1).toDF("id"), suite)
    assert (result.success, result.failures[0].cause) == (False, "could not be evaluated")


def test_a_machine_that_fails_under_a_rule_judges_nothing(spark: SparkSession) -> None:
    """GX catches every exception; the data has done nothing wrong, and a repetition may find it right."""
    full = "raise_error('java.io.IOException: No space left on device')"
    rows = two_rows(spark, TOKEN, a_codes=f"if(user_id = 'u2', CAST({full} AS array<smallint>), a_codes)")
    with pytest.raises(RuntimeError) as caught:
        quality.evaluate(rows, quality.packaged_suite("user_tokens.json", LAYOUT, rows=2))
    assert "disk full" in str(infrastructure_of(caught.value))


def test_an_expectation_that_gx_drops_fails_closed(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """GX logs and drops what it can't read, and then reports success with fewer evaluations."""
    suite = quality.load_suite('{"name": "s", "expectations": [{"name": "r", "where": "id < 0"}]}', "s.json")
    monkeypatch.setattr(quality, "_validate", lambda rows, name, expectations, format: [None] * len(expectations))
    result = quality.evaluate(spark.range(1).toDF("id"), suite)
    assert (result.success, result.evaluated) == (False, 0)


@pytest.mark.parametrize(
    ("expectations", "expected"),
    [
        ([], "at least one expectation"),
        ([{"type": "expect_column_values_to_be_nice", "kwargs": {"column": "x"}}], "expect_column_values_to_be_nice"),
        ([{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x", "colour": 1}}], "colour"),
        ([{"type": "expect_column_values_to_not_be_null"}], "expected type and kwargs"),
        ([{"name": "r", "where": "a = ${nope}"}], "placeholder 'nope'"),
        ([{"name": "r", "where": "a = 1"}] * 2, "the same expectation twice"),
        (["text"], "expected type and kwargs"),
    ],
)
def test_a_malformed_suite_is_refused_before_anything_runs(expectations: list[object], expected: str) -> None:
    """The message has the file and the place."""
    with pytest.raises(BadInput, match=r"s\.json") as caught:
        quality.load_suite(json.dumps({"name": "s", "expectations": expectations}), "s.json")
    assert expected in str(caught.value)


def test_a_source_name_can_not_carry_sql() -> None:
    """Names are checked where they enter a condition."""
    with pytest.raises(ValueError, match="name"):
        quality.packaged_suite("user_tokens.json", {**LAYOUT, "sources": [{"name": "a OR 1=1 --"}]}, rows=1)
