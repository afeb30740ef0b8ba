"""A tokenizer's life: registered from elsewhere, in the shadow, promoted without a gap, rolled back; two versions never mix."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import (
    audit_tokens,
    build_user_features,
    create_views,
    crosswalk_codes,
    encode_users,
    promote_tokenizer,
    publish_tokens,
    register_tokenizer,
    shadow_days,
)
from jobs.context import Context
from jobs.crosswalk_codes import crosswalk, kept
from jobs.delta_tables import Lakehouse
from jobs.errors import BadInput, GateRefused
from jobs.promote_tokenizer import missing_days
from jobs.registered_tokenizers import checkpoint_folder, find_registered, load_registered
from jobs.tokenizer_registration import manifest_of
from schemas.keys import Days
from u2qt_model import load, save
from u2qt_model.errors import CheckpointError

FIRST = date(2024, 1, 1)
ALL = Days(FIRST, date(2024, 1, 3))
TRAINED = Days(FIRST, date(2024, 1, 2))


def checkpoint(context: Context) -> Path:
    return Path(find_registered(context, "v1").checkpoint)


@pytest.fixture(scope="module")
def two(published: Context, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """v1 promoted with three days; v2, the same checkpoint brought from elsewhere, registered and with two days in its shadow."""
    root = tmp_path_factory.mktemp("two") / "lake"
    shutil.copytree(published.lake.root, root)
    context = replace(published, lake=Lakehouse(published.spark, str(root)), run_id="shadow")
    register_tokenizer.run(context, checkpoint(published), "v2", TRAINED)
    for stage in (encode_users, audit_tokens, publish_tokens):
        stage.run(context, TRAINED, "v2")
    return context


def test_a_checkpoint_from_elsewhere_is_copied_and_its_sums_are_kept(two: Context) -> None:
    """The same fingerprint, the same quality rows, a folder in the lakehouse; a second registration adds nothing."""
    brought, original = find_registered(two, "v2"), find_registered(two, "v1")
    assert (brought.fingerprint, brought.trained_through) == (original.fingerprint, TRAINED.last)
    assert Path(brought.checkpoint).is_relative_to(two.lake.root)
    assert brought.manifest == manifest_of(Path(brought.checkpoint)) == original.manifest
    before = two.lake.version("tokenizers")
    register_tokenizer.run(two, checkpoint(two), "v2", TRAINED)
    assert two.lake.version("tokenizers") == before
    assert two.lake.read("codebook_quality").where("tokenizer_version = 'v2'").count() > 0


def test_other_days_of_training_are_another_version(two: Context) -> None:
    """Labels up to the last day are refused; a correction that changed nothing would leave the wrong day in force."""
    with pytest.raises(BadInput, match=r"v2: already registered as trained on 2024-01-01 to 2024-01-02, found 2024-01-01 to 2024-01-03"):
        register_tokenizer.run(two, checkpoint(two), "v2", ALL)


def test_a_lakehouse_that_was_copied_has_its_tokenizers(two: Context, tmp_path: Path) -> None:
    """As docs/operations.md has it for a full disk: the folder copied whole, the old one gone."""
    shutil.copytree(two.lake.root, tmp_path / "larger")
    moved = replace(two, lake=Lakehouse(two.spark, str(tmp_path / "larger")))
    moved.spark.sql(f"UPDATE delta.`{moved.lake.path('tokenizers')}` SET checkpoint = '/gone/checkpoints/v2' WHERE tokenizer_version = 'v2'").collect()
    registered = find_registered(moved, "v2")
    assert registered.checkpoint == str(tmp_path / "larger" / "checkpoints" / "v2")
    assert load_registered(registered, moved.catalog).fingerprint == registered.fingerprint


def test_what_is_no_checkpoint_is_not_registered(two: Context, tmp_path: Path) -> None:
    """An empty folder; the ledger has the refusal."""
    with pytest.raises(CheckpointError, match=r"layout\.json"):
        register_tokenizer.run(two, tmp_path, "v3", TRAINED)
    assert two.lake.read("tokenizers").where("tokenizer_version = 'v3'").isEmpty()


def test_a_checkpoint_without_the_figures_of_this_release_leaves_no_copy(two: Context, tmp_path: Path) -> None:
    """metrics.json takes no part in the fingerprint, so an earlier release's checkpoint loads; it can't fill `codebook_quality`."""
    tokenizer = load(checkpoint(two))
    tokenizer.metrics = {name: part for name, part in tokenizer.metrics.items() if name != "shared"}
    older = save(tokenizer, tmp_path / "older")
    with pytest.raises(BadInput, match=r"tokenizer v4, metrics\.json: KeyError at 'shared'"):
        register_tokenizer.run(two, older, "v4", TRAINED)
    assert not (checkpoint_folder(two, None) / "v4").exists()


def test_a_checkpoint_whose_sums_were_made_anew_is_refused(two: Context, tmp_path: Path) -> None:
    """A folder can agree with itself; the lakehouse remembers what was registered."""
    registered = find_registered(two, "v2")
    folder = tmp_path / "v2"
    shutil.copytree(registered.checkpoint, folder)
    moved = replace(registered, checkpoint=str(folder))
    assert load_registered(moved, two.catalog).fingerprint == registered.fingerprint
    manifest = dict(registered.manifest or {})
    with pytest.raises(BadInput, match=r"metrics\.json has sha256 .*, expected 0000.* as registered"):
        load_registered(replace(moved, manifest={**manifest, "metrics.json": "0" * 64}), two.catalog)
    (folder / "metrics.json").unlink()
    with pytest.raises(BadInput, match=r"metrics\.json is not there"):
        load_registered(moved, two.catalog)


def test_the_trailing_90_days_count_and_no_older_ones() -> None:
    """From the newest published day backwards; a day that only the new version has does no harm."""
    newest = date(2026, 6, 30)
    current = {newest - timedelta(days=n) for n in (0, 1, 89, 90, 200)}
    assert missing_days(current, {newest}) == [newest - timedelta(days=89), newest - timedelta(days=1)]
    assert missing_days(current, current) == []
    assert missing_days(set(), {newest}) == []


def test_a_gap_is_refused_filled_or_allowed_with_a_reason(two: Context) -> None:
    """v2 lacks the last day: the refusal names it and `shadow` plans exactly it; a reason is kept beside the number of days."""
    with pytest.raises(GateRefused, match=r"has not published 1 of .*\(2024-01-03\).*u2qt tokenizer shadow v2"):
        promote_tokenizer.run(two, "v2", "better")
    assert shadow_days.planned(two, "v2", None) == [Days(ALL.last, ALL.last)]
    with pytest.raises(BadInput, match="v1: is promoted"):
        shadow_days.planned(two, "v1", ALL)
    with pytest.raises(BadInput, match="expected a reason on one line"):
        promote_tokenizer.run(two, "v2", "better", allow_gap=" ")
    made = promote_tokenizer.run(two, "v2", "better", allow_gap="nobody reads the 3rd")
    assert (made.changed, made.missing) == (True, 1)
    row = two.lake.read("promotions").where("seq = 2").first()
    assert row is not None
    assert (row.tokenizer_version, row.missing_days, row.allowed_gap) == ("v2", 1, "nobody reads the 3rd")
    back = promote_tokenizer.roll_back(two, "as it was")
    assert (back.tokenizer_version, back.seq, back.missing) == ("v1", 3, 0)


def test_a_day_that_was_repaired_under_the_current_version_alone_is_a_gap(two: Context) -> None:
    """Promoted all the same, v2 would show the 1st as it was before its late rows; in its shadow the day is made again."""
    first = Days(FIRST, FIRST)
    repair = replace(two, run_id="repair")
    build_user_features.run(repair, first, datetime(2024, 2, 1, tzinfo=UTC))
    for version in ("v1", "v2"):
        for stage in (encode_users, audit_tokens, publish_tokens):
            stage.run(replace(repair, run_id=f"repair-{version}"), first, version)
        assert promote_tokenizer.gap(two, "v2") == ([FIRST, ALL.last] if version == "v1" else [ALL.last])


def test_without_an_earlier_version_there_is_nothing_to_roll_back_to(ready: Context, published: Context) -> None:
    """None promoted; then one promoted, and none before it."""
    with pytest.raises(BadInput, match="no tokenizer is current"):
        promote_tokenizer.roll_back(ready, "panic")
    with pytest.raises(BadInput, match="v1 is current and none was before it"):
        promote_tokenizer.roll_back(replace(ready, lake=Lakehouse(ready.spark, published.lake.root)), "panic")


def test_codes_of_two_versions_never_mix_in_a_view(two: Context) -> None:
    """Both are in user_tokens on the same days; every view shows the promoted one's rows alone, or keeps the versions apart."""
    create_views.run(two)
    sql = two.spark.sql
    assert sql("SELECT count(DISTINCT tokenizer_version) n FROM user_tokens WHERE ds = DATE'2024-01-01'").collect()[0].n == 2
    for view in ("user_tokens_current", "user_tokens_long", "user_token_sequences"):
        assert [row[0] for row in sql(f"SELECT DISTINCT tokenizer_version FROM {view}").collect()] == ["v1"], view
    assert sql("SELECT user_id, ds FROM user_tokens_current GROUP BY user_id, ds HAVING count(*) > 1").isEmpty()
    assert sql("SELECT DISTINCT ds FROM user_tokens_current").count() == 3
    slices = {r.tokenizer_version: r.n for r in sql("SELECT tokenizer_version, max(slices) n FROM codebook_usage GROUP BY tokenizer_version").collect()}
    assert slices["v1"] > slices["v2"] > 0


def test_the_same_checkpoint_s_crosswalk_is_the_identity(two: Context) -> None:
    """Rows of the two days that both published; a second run replaces the first."""
    for _ in range(2):
        walk = crosswalk_codes.run(two, "v1", "v2")
    both = two.lake.read("user_tokens").where("ds < '2024-01-03' AND tokenizer_version = 'v1'").count()
    assert (walk.rows, {row.kept for row in walk.levels}, len(walk.levels)) == (both, {1.0}, 24)
    table = two.lake.read("code_crosswalk")
    assert table.where("old_code <> new_code OR share_of_old <> 1 OR share_of_new <> 1").isEmpty()
    assert table.count() == walk.pairs
    with pytest.raises(BadInput, match="no row is published under both"):
        crosswalk_codes.run(two, "v1", "v2", Days(ALL.last, ALL.last))


def test_a_crosswalk_counts_pairs_and_shares(spark: SparkSession) -> None:
    """Four slices: old code 1 became 5 twice and 6 once; rows of other features and levels of one version alone don't count."""
    old = [("a", 1, [1, 2]), ("b", 2, [1, 2]), ("c", 3, [1, 3]), ("d", 4, [7, 3]), ("e", 5, [1, 1])]
    new = [("a", 1, [5]), ("b", 2, [5]), ("c", 3, [6]), ("d", 4, [6]), ("e", 9, [5])]
    frames = [
        spark.createDataFrame([(u, FIRST, h, codes) for u, h, codes in side], "user_id string, ds date, row_hash bigint, bill_codes array<smallint>")
        for side in (old, new)
    ]
    walk = crosswalk(frames[0], frames[1], ("bill",))
    found = {(r.level, r.old_code, r.new_code): (r.slices, round(r.share_of_old, 3), r.share_of_new) for r in walk.collect()}
    assert found == {(1, 1, 5): (2, 0.667, 1.0), (1, 1, 6): (1, 0.333, 0.5), (1, 7, 6): (1, 1.0, 0.5)}
    (level,) = kept(walk).collect()
    assert (level.slices, level.old_codes, level.kept) == (4, 2, 0.75)


def test_the_manifest_covers_every_file_of_the_checkpoint(two: Context) -> None:
    """As the table keeps it."""
    row = two.lake.read("tokenizers").where("tokenizer_version = 'v2'").first()
    assert row is not None
    assert set(json.loads(row.manifest)) == {"model.safetensors", "config.json", "metrics.json", "layout.json"}


def test_missing_days_become_ranges_without_holes() -> None:
    """At most a week at once; a hole starts another range."""
    days = [FIRST + timedelta(days=n) for n in (0, 1, 2, 5, *range(10, 20))]
    found = shadow_days.chunks(days)
    assert [(c.first.day, len(c)) for c in found] == [(1, 3), (6, 1), (11, 7), (18, 3)]
    assert [day for c in found for day in c] == days
