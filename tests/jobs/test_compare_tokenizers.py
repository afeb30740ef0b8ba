"""Two tokenizers side by side: figures on literal rows, then on the published lakehouse."""

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from pyspark.sql import Row, SparkSession

from jobs import compare_tokenizers, train_tokenizer
from jobs.cli import call
from jobs.compare_tokenizers import SLICES, compared, sampled, side_by_side
from jobs.context import Context
from jobs.errors import BadInput
from jobs.quality_rows import quality_rows
from jobs.registered_tokenizers import find_registered
from schemas.codebook_quality import ALL_SOURCES
from schemas.keys import Days
from u2qt_model import presets

DAYS = Days(date(2024, 1, 1), date(2024, 1, 2))
LAST = Days(date(2024, 1, 3), date(2024, 1, 3))


def figures(spark: SparkSession, codes: list[tuple[int | None, int | None]]) -> Row:
    """Of one source and level with these codes; margins are the row's number, errors 1 of 4 and 2 of 4."""
    rows = [("bill", 1, a, float(i), 1.0, 4.0, b, float(-i), 2.0, 4.0) for i, (a, b) in enumerate(codes)]
    found = compared(spark.createDataFrame(rows, SLICES)).collect()
    assert len(found) == 1
    return found[0]


def test_renumbered_codes_agree(spark: SparkSession) -> None:
    """The same clusters under other numbers: agreement 1, though no number is equal."""
    row = figures(spark, [(0, 7), (0, 7), (1, 8), (2, 9)])
    assert (row.agreement, row.equal, row.slices_ab) == (pytest.approx(1), 0, 4)
    assert (row.used_a, row.used_b, row.slices_a) == (3, 3, 4)
    assert row.perplexity_a == pytest.approx(2**1.5)
    assert (row.error_a, row.error_b) == (0.25, 0.5)
    assert (row.margin_p01_a, row.margin_p50_a, row.margin_p50_b) == (0, 1, -2)


def test_independent_codes_don_t(spark: SparkSession) -> None:
    """Each pair once: knowing one code says nothing of the other; half the numbers are equal by chance."""
    row = figures(spark, [(0, 0), (0, 1), (1, 0), (1, 1)])
    assert (row.agreement, row.equal) == (pytest.approx(0, abs=1e-12), 0.5)


def test_half_the_information_is_shared(spark: SparkSession) -> None:
    """Four codes of which the other tells two: H is ln 4 and ln 2, both ln 4, so 2 ln 2 / (ln 4 + ln 2)."""
    row = figures(spark, [(0, 0), (1, 0), (2, 1), (3, 1)])
    assert row.agreement == pytest.approx(2 * math.log(2) / (math.log(4) + math.log(2)))


def test_a_slice_of_one_tokenizer_only_is_counted_there(spark: SparkSession) -> None:
    """A source that the other never learnt has no agreement; one code under both has none to measure."""
    row = figures(spark, [(0, None), (1, None)])
    assert (row.slices_a, row.used_a, row.slices_b, row.used_b, row.slices_ab, row.agreement) == (2, 2, None, None, None, None)
    assert figures(spark, [(0, 0), (0, 0)]).agreement is None


def test_levels_that_one_tokenizer_lacks_are_empty() -> None:
    """Two levels beside one; the second user's absent slice has no row."""
    a = {"code": np.array([[[1.0, 2.0]], [[np.nan, np.nan]]]), "error": np.array([[[0.5, np.nan]], [[np.nan, np.nan]]])}
    b = {"code": np.array([[[3.0]], [[np.nan]]]), "error": np.array([[[0.25]], [[np.nan]]])}
    frame = side_by_side({"a": a, "b": b}, ("bill",))
    assert frame[["source", "level", "code_a", "error_a"]].astype(object).where(frame.notna(), None).values.tolist()[0] == ["bill", 1, 1, 0.5]
    assert frame["level"].tolist() == [1, 2]
    assert frame["code_b"].isna().tolist() == [False, True]


def test_the_sample_is_bounded_and_the_same_in_any_partitioning(spark: SparkSession) -> None:
    """By row_hash alone."""
    rows = spark.range(4000).withColumnRenamed("id", "row_hash")
    found = sampled(rows, 4000, 400)
    assert 300 < found.count() < 500
    assert sorted(found.collect()) == sorted(sampled(rows.repartition(7), 4000, 400).collect())
    assert sampled(rows, 4000, 9000).count() == 4000


def test_a_tokenizer_agrees_with_itself(published: Context) -> None:
    """On every row; the error is below 1, the days are partly those of the training."""
    found = compare_tokenizers.run(published, DAYS, "v1", "v1")
    assert found.sampled == found.rows == published.lake.read("user_features").where("ds <= DATE'2024-01-02'").count()
    assert [(row.source, row.level) for row in found.levels] == [(source.name, level) for source in published.catalog.sources for level in range(1, 5)]
    assert all(row.equal == 1 and row.slices_a == row.slices_b == row.slices_ab for row in found.levels)
    assert all(row.agreement is None or row.agreement == pytest.approx(1) for row in found.levels)
    assert all(0 < row.error_a < 1 and row.error_a == row.error_b for row in found.levels)
    assert not found.held_out


def test_another_tokenizer_is_compared_and_printed(writable: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of fewer levels; on a day after both trainings. The slices are those that the stage encoded."""
    context = replace(writable, run_id="third")
    config = presets.tiny(quantizer="rq_kmeans")
    config = replace(config, quantizer=replace(config.quantizer, shared_levels=1, own_levels=2))
    train_tokenizer.run(context, DAYS, "v2", config)
    found = compare_tokenizers.run(context, LAST, "v1", "v2")
    tokens = context.lake.read("user_tokens").where("ds = DATE'2024-01-03'")
    bill = [row for row in found.levels if row.source == "bill"]
    assert found.held_out
    assert [(row.slices_a, row.slices_b) for row in bill] == [(tokens.where("bill_codes IS NOT NULL").count(),) * 2] * 3 + [(bill[3].slices_a, None)]
    used = [tokens.selectExpr(f"bill_codes[{level}] AS code").dropna().distinct().count() for level in range(4)]
    assert [row.used_a for row in bill] == used
    assert all(0 <= row.agreement <= 1 for row in bill[:3])
    monkeypatch.setattr("jobs.session.build_session", lambda master, settings: context.spark)
    monkeypatch.setattr(type(context.spark), "stop", lambda self: None)
    assert call(["tokenizer", "compare", "v1", "v2", "--from", "2024-01-03", "--to", "2024-01-03", "--root", context.lake.root]) == 0
    printed = capsys.readouterr().out
    assert "after both trainings" in printed
    assert "mini_program" in printed


def test_registering_writes_the_quality_of_each_codebook(published: Context) -> None:
    """The figures of metrics.json, one row per source, level and codebook."""
    rows = published.lake.read("codebook_quality").where(f"source <> '{ALL_SOURCES}'").orderBy("source", "level").collect()
    assert len(rows) == len(published.catalog.sources) * 4
    metrics = find_registered(published, "v1").metrics["sources"]
    for row in rows:
        of_source, level = metrics[row.source], metrics[row.source]["levels"][row.level - 1]
        assert (row.tokenizer_version, row.codebook, row.codebook_size, row.run_id) == ("v1", "shared" if row.level <= 2 else "own", 32, "first")
        assert (row.used + row.dead, row.dead, row.gini, row.perplexity) == (32, level["dead_codes"], level["gini"], level["perplexity"])
        assert row.relative_squared_error == of_source["relative_squared_error"][row.level - 1]
        assert row.margin_p01 <= row.margin_p10 <= row.margin_p50 <= row.margin_p90
        assert (row.collision_rate, row.slices) == (of_source["collision_rate"], of_source["slices"])


def test_registering_writes_what_all_sources_use_of_a_shared_codebook(published: Context) -> None:
    """One row per shared level; a code is dead there only where no source has it."""
    table = published.lake.read("codebook_quality").where("codebook = 'shared'").collect()
    together = {row.level: row for row in table if row.source == ALL_SOURCES}
    assert sorted(together) == [1, 2]
    for level, row in together.items():
        apart = [other for other in table if other.level == level and other.source != ALL_SOURCES]
        assert (row.used + row.dead, row.slices) == (32, sum(other.slices for other in apart))
        assert max(other.used for other in apart) <= row.used <= sum(other.used for other in apart)
        assert min(other.relative_squared_error for other in apart) < row.relative_squared_error < max(other.relative_squared_error for other in apart)


def test_metrics_of_another_make_are_refused(published: Context) -> None:
    """Those of an earlier release, or of nobody's."""
    metrics = find_registered(published, "v1").metrics
    others: list[dict[str, object]] = [{}, {"sources": []}, {name: part for name, part in metrics.items() if name != "shared"}, {**metrics, "shared": [1]}]
    for found in others:
        with pytest.raises(BadInput, match=r"tokenizer v1, metrics\.json: .*train it again"):
            quality_rows("v1", found, "first")


def test_registering_again_adds_no_quality(writable: Context) -> None:
    """The same training gives the same fingerprint; the rows stay as they are."""
    before = writable.lake.version("codebook_quality")
    train_tokenizer.run(replace(writable, run_id="again"), DAYS, "v1", presets.tiny())
    assert writable.lake.version("codebook_quality") == before


def test_nothing_to_compare_on_is_refused(published: Context) -> None:
    """A day without rows, no rows wanted, an unknown version."""
    empty = Days(date(2030, 1, 1), date(2030, 1, 1))
    for days, version, rows, word in ((empty, "v1", 9, "no rows to compare on"), (DAYS, "v1", 0, "--rows 0"), (DAYS, "v9", 9, "v9: not registered")):
        with pytest.raises(BadInput, match=word):
            compare_tokenizers.run(published, days, "v1", version, rows)
