"""The day's stages on a small published lakehouse: what encoding, the audit and publishing promise together."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import audit_tokens, build_user_features, encode_users, publish_tokens, validate_sources
from jobs.context import Context
from jobs.delta_tables import Lakehouse, Where
from jobs.encoding import tokens_udf
from jobs.errors import BadInput, GateRefused
from jobs.registered_tokenizers import find_registered, ship
from schemas.keys import Days

DAYS = Days(date(2024, 1, 1), date(2024, 1, 3))
LAST = Days(date(2024, 1, 3), date(2024, 1, 3))
CODES = ("bill_codes", "mini_program_codes", "spm_codes", "app_codes", "search_codes", "profile_codes")


def content(table: DataFrame) -> list[str]:
    """Rows as text without what a re-run may change, in a stable order."""
    kept = [name for name in table.columns if name not in ("run_id", "available_at")]
    return sorted(row[0] for row in table.select(F.to_json(F.struct(*(F.col(n) if n != "user_id" else F.col(n).cast("string") for n in kept)))).collect())


def test_every_feature_row_has_one_published_row(published: Context) -> None:
    """Same users, days and hashes; the row counts of all hops agree in the ledger."""
    features = published.lake.read("user_features").select(F.col("user_id").cast("string").alias("user_id"), "ds", "row_hash")
    tokens = published.lake.read("user_tokens").select("user_id", "ds", "row_hash")
    assert sorted(features.collect()) == sorted(tokens.collect())
    hops = {row.stage: row.rows for row in published.lake.read("runs").where("status = 'done'").collect()}
    assert hops["encode_users"]["staged_user_tokens"] == hops["publish_tokens"]["user_tokens"] == features.count() > 50


def test_codes_are_null_exactly_where_a_source_is_absent(published: Context) -> None:
    """NULL in the table, never -1, and as many codes as levels."""
    features = published.lake.read("user_features").withColumn("user_id", F.col("user_id").cast("string"))
    joined = published.lake.read("user_tokens").join(features, on=["user_id", "ds"], how="inner")
    for name in CODES:
        wrong = joined.where(F.col(name).isNull() != (F.col(name.replace("_codes", "_count")) == 0))
        assert wrong.isEmpty(), name
        assert [row[0] for row in joined.where(F.col(name).isNotNull()).select(F.size(name)).distinct().collect()] == [4]
        assert joined.where(F.exists(name, lambda code: (code < 0) | (code >= 32))).isEmpty()


def test_the_udf_gives_the_codes_of_the_stage(published: Context) -> None:
    """The iterator pandas UDF over any DataFrame, in another partitioning, equals the daily stage."""
    registered = find_registered(published, "v1")
    frozen = ship(published, registered, tuple(s.name for s in published.catalog.sources))
    features = published.lake.read("user_features").repartition(5)
    columns = [name for name in features.columns if name not in ("user_id", "ds", "available_at", "row_hash", "run_id")]
    coded = features.select(F.col("user_id").cast("string").alias("user_id"), "ds", tokens_udf(frozen)(F.struct(*columns)).alias("codes"))
    ours = coded.select("user_id", "ds", "codes.*").orderBy("user_id", "ds")
    theirs = published.lake.read("user_tokens").select("user_id", "ds", *CODES).orderBy("user_id", "ds")
    assert ours.collect() == theirs.collect()


def test_a_chunk_of_days_equals_day_by_day(published: Context, writable: Context, empty_lake: Path, tmp_path: Path) -> None:
    """Same clean rows, features and tokens whether three days run in one job or in three."""
    root = tmp_path / "daily"
    shutil.copytree(empty_lake, root)
    daily = replace(writable, lake=Lakehouse(writable.spark, str(root)))
    registered = published.lake.read("tokenizers")
    daily.lake.append("tokenizers", registered, {})
    for ds in DAYS:
        for stage in (validate_sources, build_user_features):
            stage.run(daily, Days(ds, ds))
        for stage in (encode_users, audit_tokens, publish_tokens):
            stage.run(daily, Days(ds, ds), "v1")
    for table in ("source_bill", "source_profile", "quarantine_app", "user_features", "user_tokens"):
        assert content(daily.lake.read(table)) == content(published.lake.read(table)), table


def test_a_re_run_gives_the_same_rows_and_keeps_when_they_were_known(published: Context, writable: Context) -> None:
    """Unchanged rows keep `available_at`, and nothing is superseded."""
    for stage in (validate_sources, build_user_features):
        stage.run(writable, LAST, force=True)
    for stage in (encode_users, audit_tokens, publish_tokens):
        stage.run(writable, LAST, "v1", force=True)
    assert content(writable.lake.read("user_tokens")) == content(published.lake.read("user_tokens"))
    known = [sorted(t.lake.read("user_tokens").select("user_id", "ds", "available_at").collect()) for t in (writable, published)]
    assert known[0] == known[1]
    assert writable.lake.read("user_tokens_superseded").isEmpty()


@pytest.mark.parametrize(
    ("change", "expectation"),
    [
        ({"bill_codes": "array(99S, 1S, 1S, 1S)"}, "codes"),
        ({"bill_codes": "array(1S, 1S, 1S)"}, "codes"),
        ({"row_hash": "row_hash + 1"}, "rows_equal_user_features"),
    ],
)
def test_a_failed_audit_publishes_nothing_and_keeps_the_stage(published: Context, writable: Context, change: dict[str, str], expectation: str) -> None:
    """The message has the expectation and row hashes, never an id; the next publish is refused too."""
    staged = writable.lake.read("staged_user_tokens").where("ds = '2024-01-03'").localCheckpoint()
    broken = staged.selectExpr(*(f"{change.get(name, name)} AS {name}" for name in staged.columns))
    writable.lake.replace("staged_user_tokens", broken, Where(days=LAST, equals=(("tokenizer_version", "v1"),)), {})
    before = writable.lake.version("user_tokens")
    with pytest.raises(GateRefused, match=expectation) as refusal:
        audit_tokens.run(writable, LAST, "v1")
    assert "u0000" not in str(refusal.value)
    with pytest.raises(GateRefused, match="its audit failed"):
        publish_tokens.run(writable, LAST, "v1")
    assert writable.lake.version("user_tokens") == before
    assert writable.lake.read("staged_user_tokens").where("ds = '2024-01-03'").count() == staged.count()
    verdict = writable.lake.read("audits").where("run_id = 'second'").first()
    assert verdict is not None
    assert not verdict.success
    assert json.loads(verdict.failures)


def test_rows_staged_after_the_audit_are_not_published(writable: Context) -> None:
    """Publish reads exactly the audited version, and refuses when the stage moved on."""
    encode_users.run(writable, LAST, "v1", force=True)
    with pytest.raises(GateRefused, match="staged again"):
        publish_tokens.run(writable, LAST, "v1")


def test_publish_without_an_audit_is_refused(writable: Context) -> None:
    """The day has none: the message says what to run."""
    day = Days(date(2024, 2, 1), date(2024, 2, 1))
    with pytest.raises(GateRefused, match="u2qt audit --ds 2024-02-01"):
        publish_tokens.run(writable, day, "v1")


def test_the_commit_says_where_its_rows_come_from(published: Context) -> None:
    """Run id, fingerprint, suite hash and source versions stand in the commit's metadata."""
    history = published.spark.sql(f"DESCRIBE HISTORY delta.`{published.lake.path('user_tokens')}` LIMIT 1").first()
    assert history is not None
    said = json.loads(history.userMetadata)
    assert said["fingerprint"] == find_registered(published, "v1").fingerprint
    assert said["run_id"] == "first"
    assert len(said["suite_hash"]) == 64
    assert set(said["sources"]) >= {"source_bill", "source_profile"}


def test_a_day_never_built_is_refused(writable: Context) -> None:
    """`encode` names the day and the way out."""
    with pytest.raises(BadInput, match="run `u2qt build`"):
        encode_users.run(writable, Days(date(2024, 3, 1), date(2024, 3, 1)), "v1")


def test_tokens_of_a_user_differ_between_users(published: Context) -> None:
    """Not one constant code: many distinct sequences per source."""
    tokens = [tuple(row.app_codes) for row in published.lake.read("user_tokens").where("app_codes IS NOT NULL").collect()]
    assert len(set(tokens)) > 0.2 * len(tokens)
    assert len({codes[0] for codes in tokens}) > 5
