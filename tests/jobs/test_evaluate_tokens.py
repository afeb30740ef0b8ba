"""`u2qt evaluate` on a small lakehouse: the same rows for every feature set, no future in any, bad labels refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import evaluate_tokens, evaluation_features
from jobs.context import Context
from jobs.errors import BadInput, GateRefused
from jobs.evaluate_tokens import Question
from jobs.evaluation_counts import counts_and_sums
from jobs.evaluation_features import Cut
from jobs.evaluation_labels import Sample
from jobs.evaluation_pooling import Pooling, Slices, activity, pooled_tokens, pooled_vectors
from jobs.registered_tokenizers import find_registered, load_registered
from jobs.show_evaluation import render, write_json
from schemas.catalog import Catalog

NOON = datetime(2024, 1, 4, 4, tzinfo=UTC)  # of the day after the last published one, in Shanghai
POOLING = Pooling(sources=("bill", "search"), window_days=4, lag_days=1)


def batch(sequence: list[Any], codes_type: Any) -> pa.RecordBatch:
    entry = pa.struct([("ds", pa.date32()), ("source", pa.string()), ("codes", pa.list_(codes_type))])
    days = pa.array([date(2024, 1, 5)] * len(sequence), pa.date32())
    return pa.RecordBatch.from_arrays([days, pa.array(sequence, pa.list_(entry))], names=["day", "sequence"])


def entry(day: int, source: str, codes: list[float]) -> dict[str, Any]:
    return {"ds": date(2024, 1, day), "source": source, "codes": codes}


def test_a_window_is_pooled_per_source_with_weights_that_halve() -> None:
    """Half life 2 days: a slice of two days before weighs half; a label without a source has zeros there."""
    rows = [[entry(2, "bill", [3.0, 0.0]), entry(4, "bill", [0.0, 3.0]), entry(4, "search", [5.0, 5.0])], [entry(3, "search", [1.0, 2.0])]]
    slices = Slices.of(batch(rows, pa.float32()), POOLING)
    assert pooled_vectors(slices, 2, POOLING).tolist() == pytest.approx(np.array([[1, 2, 5, 5], [0, 0, 1, 2]]))
    assert activity(slices, 2, POOLING).tolist() == [[2, 1, 0, 0], [0, 1, 4, 1]]


def test_tokens_are_pooled_as_their_vectors_are() -> None:
    """The share of each (source, level, code) is what a slice's one-hot codes would pool to."""
    rows = [[entry(2, "bill", [1, 0]), entry(4, "bill", [1, 2]), entry(4, "search", [0, 0])], []]
    slices = Slices.of(batch(rows, pa.int16()), POOLING)
    dense = pooled_tokens(slices, 2, np.array([[2, 3], [2, 3]]), POOLING).toarray()
    assert dense[0] == pytest.approx([0, 1, 1 / 3, 0, 2 / 3, 1, 0, 1, 0, 0])
    assert not dense[1].any()


def test_a_source_with_more_levels_than_the_others_keeps_all_its_tokens() -> None:
    """As a profile with a quantizer of its own has: bill 2 levels of 2 codes, search 3 of 3, 2 and 2."""
    rows = [[entry(4, "bill", [1, 0]), entry(4, "search", [2, 0, 1])], [entry(4, "bill", [0, 1])]]
    slices = Slices.of(batch(rows, pa.int16()), POOLING)
    assert slices.values.tolist() == [[1, 0, -1], [2, 0, 1], [0, 1, -1]]
    dense = pooled_tokens(slices, 2, np.array([[2, 2, 0], [3, 2, 2]]), POOLING).toarray()
    assert dense.tolist() == [[0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]]


@pytest.fixture(scope="module")
def labels(published: Context, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated attribute."""
    return Path(published.input_root).parent / "labels" / "attribute"


def question(labels: Path | str, **changes: Any) -> Question:
    return replace(Question(labels=str(labels), versions=("v1",), as_of=NOON, window_days=3, models=("linear",)), **changes)


def test_every_feature_set_has_figures_on_the_same_rows(published: Context, labels: Path, tmp_path: Path, writable: Context) -> None:
    """Tokens, decoded, floats and counts of one version; printed and written once."""
    found = evaluate_tokens.run(writable, question(labels, models=("linear", "boosting")))
    assert [(f.features, f.model) for f in found.figures] == [
        (f"{kind}{version}", model)
        for kind, version in (("tokens", " v1"), ("decoded", " v1"), ("floats", " v1"), ("counts", ""))
        for model in ("linear", "boosting")
    ]
    with_tokens = published.lake.read("user_tokens").select("user_id").distinct().count()
    assert found.rows == found.persons == sum(test for _, test in found.splits) == with_tokens
    assert len(found.controls) == 4
    write_json(found, tmp_path / "figures.json")
    with pytest.raises(BadInput, match="expected a new file"):
        write_json(found, tmp_path / "figures.json")
    assert render(found).renderables


def test_decoded_codes_and_floats_are_those_of_the_tokenizer(published: Context) -> None:
    """One user's single day, computed without the lakehouse's joins."""
    user, day = published.lake.read("user_tokens").where("ds = '2024-01-03'").select("user_id", "ds").orderBy("user_id").first() or ("", None)
    moment = int(NOON.timestamp() * 1_000_000)
    sample = Sample(users=(user,), moments=np.array([moment]), labels=np.array([1]), found=1)
    cut = Cut(time_zone="Asia/Shanghai", window_days=1, lag_days=1)
    version = evaluate_tokens._version(published, "v1")
    frame = sample.frame(published.spark)
    none = published.lake.read("user_tokens_superseded")
    tokens = evaluation_features.token_features(sample, frame, published.lake.read("user_tokens"), none, version, cut)
    floats = evaluation_features.float_features(sample, frame, published.lake.read("user_features"), version, cut)
    tokenizer = load_registered(find_registered(published, "v1"), published.catalog)
    row = published.lake.read("user_tokens").where((F.col("user_id") == user) & (F.col("ds") == F.lit(day))).first()
    assert row is not None
    codes = np.array([[row[f"{s}_codes"] or [-1] * tokenizer.vocabulary.num_levels for s in tokenizer.layout.source_names]])
    assert tokens.decoded[0, : version.vector_width] == pytest.approx(tokenizer.decode(codes).ravel())
    error = np.linalg.norm(floats - tokens.decoded) / np.linalg.norm(floats)
    assert 0 < error < 0.9
    assert (floats[0, version.vector_width :] == tokens.decoded[0, version.vector_width :]).all()


LATER = datetime(2024, 1, 20, tzinfo=UTC)
SOURCE_ROW = "user_id STRING, event_time TIMESTAMP, available_time TIMESTAMP, ds DATE, delivered_ds DATE, delivery_id STRING"


def source_tables(spark: SparkSession, catalog: Catalog, bills: Sequence[tuple[str, datetime, float]]) -> dict[str, DataFrame]:
    """Empty tables, but for `bills`: (key, available, amount) of user a on 3 January."""
    tables = {}
    for source in catalog.sources:
        columns = [F.lit(None).cast(c.type).alias(c.name) for c in source.columns]
        tables[source.name] = spark.createDataFrame([], SOURCE_ROW).select("*", *columns)
    rows = [("a", datetime(2024, 1, 3, tzinfo=UTC), available, date(2024, 1, 3), date(2024, 1, 3), "d", key, amount) for key, available, amount in bills]
    bill = catalog.source("bill")
    number = bill.with_role("numeric")[0].name
    frame = spark.createDataFrame(rows, f"{SOURCE_ROW}, k STRING, amount_ DOUBLE")
    keyed = [
        (F.col("k") if c.name in bill.dedup_key else F.col("amount_") if c.name == number else F.lit(None)).cast(c.type).alias(c.name) for c in bill.columns
    ]
    return tables | {"bill": frame.select(*[n.split()[0] for n in SOURCE_ROW.split(", ")], *keyed)}


def counted(spark: SparkSession, catalog: Catalog, bills: Sequence[tuple[str, datetime, float]], at: datetime, window_days: int = 3) -> dict[str, Any]:
    labels = spark.createDataFrame([(0, "a", at, at.date())], "label_id INT, user_id STRING, moment TIMESTAMP, day DATE")
    row = counts_and_sums(labels, source_tables(spark, catalog, bills), catalog, window_days=window_days, lag_days=1).first()
    assert row is not None
    return row.asDict()


def test_counts_hold_what_was_delivered_by_the_label_and_nothing_later(spark: SparkSession, default_catalog: Catalog) -> None:
    """A delivery after the label, or one that replaces a row after it, changes no feature; before the label both do."""
    amount = f"bill_sum_{default_catalog.source('bill').with_role('numeric')[0].name}"
    known = [("k1", NOON - timedelta(hours=3), 10.0)]
    canaries = [("k1", NOON + timedelta(microseconds=1), 666.0), ("k2", NOON + timedelta(days=3), 667.0)]
    before = counted(spark, default_catalog, known, NOON)
    assert (before["bill_events"], before[amount], before["bill_days_since"], before["search_days_since"]) == (1, 10, 0, 3)
    assert counted(spark, default_catalog, [*known, *canaries], NOON) == before
    after = counted(spark, default_catalog, [*known, *canaries], NOON + timedelta(days=3), window_days=10)
    assert (after["bill_events"], after[amount]) == (2, 1333)


def test_a_leaking_join_makes_the_check_fail(published: Context, labels: Path, monkeypatch: pytest.MonkeyPatch, writable: Context) -> None:
    """A join that pretends every label lies ten days later shows tokens of the label's own day, and is refused."""
    honest = evaluation_features.join_tokens

    def leaking(rows: DataFrame, *args: Any, **kwargs: Any) -> DataFrame:
        later = rows.withColumn("at", F.col("at") + F.expr("INTERVAL 10 DAYS"))
        return honest(later, *args, **kwargs | {"sequence_days": 20}).withColumn("at", F.col("at") - F.expr("INTERVAL 10 DAYS"))

    monkeypatch.setattr(evaluation_features, "join_tokens", leaking)
    early = datetime(2024, 1, 3, 4, tzinfo=UTC)
    with pytest.raises(GateRefused, match=r"tokens of v1: the label of .* saw day 2024-01-03, .* expected days up to 2024-01-02"):
        evaluate_tokens.run(writable, question(labels, as_of=early))


def test_a_row_available_after_the_label_makes_the_check_fail() -> None:
    """By a microsecond, though its day is right."""
    moment = int(NOON.timestamp() * 1_000_000)
    sample = Sample(users=("a",), moments=np.array([moment]), labels=np.array([1]), found=1)
    cut = Cut(time_zone="Asia/Shanghai", window_days=3, lag_days=1)
    seen = pd.DataFrame({"label_id": [0], "newest_day": [date(2024, 1, 3)], "newest_available": [moment]})
    evaluation_features.refuse_future_rows(seen, sample, cut, "tokens")
    with pytest.raises(GateRefused, match="the future leaks"):
        evaluation_features.refuse_future_rows(seen.assign(newest_available=moment + 1), sample, cut, "tokens")


def written(rows: pd.DataFrame, tmp_path: Path) -> str:
    rows.to_parquet(tmp_path / "labels.parquet")
    return str(tmp_path / "labels.parquet")


def users(number: int, label: Callable[[int], Any] = lambda i: i % 2) -> pd.DataFrame:
    return pd.DataFrame({"user_id": [f"u{i:08d}" for i in range(number)], "label": [label(i) for i in range(number)]})


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (users(20, lambda i: 1), {}, "column label: found 20 positive of 20 rows, expected both classes"),
        (users(4), {}, "found 4 users, expected at least 5"),
        (users(20), {"versions": ("v9",)}, "tokenizer v9: not registered, registered are: v1"),
        (users(20), {"as_of": datetime(2023, 12, 31, tzinfo=UTC), "allow_trained_after": True}, "none of 20 has tokens of v1 in the 3 days before it"),
        (users(20), {"label": "churned"}, "column churned found 0 times, expected once; found user_id, label"),
        (users(20), {"at": "asked_at", "as_of": None, "horizon": timedelta(days=1)}, "column asked_at found 0 times"),
        (users(20, lambda i: float("nan") if i == 3 else i % 2), {}, "column label: found NULL, NaN or unreadable in 1 of 20 rows"),
        (users(20, lambda i: "maybe" if i < 2 else "true"), {}, "column label: found NULL, NaN or unreadable in 2 of 20 rows"),
        (users(20, lambda i: i % 3), {}, "column label: found 6 values other than 0 and 1"),
        (users(20), {"as_of": datetime(2024, 1, 2, 4, tzinfo=UTC)}, "20 labels .* are not after 2024-01-02"),
        (users(20).assign(user_id=range(20)), {}, "column user_id: found type bigint, expected string"),
        (users(20), {"at": "label"}, "expected either --at COLUMN .* or --as-of MOMENT"),
        (users(20), {"horizon": timedelta(days=1)}, "--horizon and --at go together"),
        (users(20), {"models": ("forest",)}, "--model: found forest, expected one or more of linear, boosting"),
        (users(20), {"versions": ("v1", "v1")}, "expected one or more different versions"),
        (users(20), {"lag": timedelta(hours=1)}, "whole days from 1d"),
        (users(20), {"seed": -1}, "found --seed -1"),
        (users(20), {"window_days": 1_000_000}, "--window 1000000, expected .* at most 3,660 days"),
        (users(20, lambda i: date(2024, 1, 1)), {}, "column label: found type date, expected 0, 1, true or false"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_bad_input_is_refused_by_name(writable: Context, tmp_path: Path, rows: pd.DataFrame, changes: dict[str, Any], message: str) -> None:
    """The message names the thing, what was found and what was expected."""
    with pytest.raises(BadInput, match=message):
        evaluate_tokens.run(writable, question(written(rows, tmp_path), **changes))


def test_a_sample_is_bounded_and_the_same_in_any_order(spark: SparkSession) -> None:
    """The cap takes labels by hash, not the first ones."""
    from jobs.evaluation_labels import sampled

    rows = users(50).assign(at=NOON)
    asked = {"name": "labels", "user": "user_id", "at": "at", "label": "label", "time_zone": "UTC", "max_labels": 10}
    found = [sampled(spark.createDataFrame(frame), **asked) for frame in (rows, rows[::-1])]  # type: ignore[arg-type]
    assert found[0].users == found[1].users
    assert (len(found[0].users), found[0].found) == (10, 50)
    assert found[0].users != tuple(rows["user_id"][:10])
