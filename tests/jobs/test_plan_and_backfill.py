"""What has to be done again over many days, and doing it: every due day is found with its reason, and done once."""

import errno
import time
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from pyspark.sql import functions as F

from jobs import DAILY_STAGES, backfill_days, build_user_features, delivery_gates, encode_users, plan_days, show_days, validate_sources
from jobs.backfill_days import Chunk, chunks
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.errors import BadInput, GateRefused, Infrastructure
from jobs.ledger import record_stage
from jobs.plan_days import Entry
from schemas.keys import Days

DAYS = Days(date(2024, 1, 1), date(2024, 1, 3))
FIRST, SECOND, LAST = DAYS
ONLY_LAST = Days(LAST, LAST)
MUCH_LATER = datetime(2024, 2, 1, tzinfo=UTC)
ON_TIME = datetime(2023, 1, 1, tzinfo=UTC)  # no row is late by then


@pytest.fixture
def published(published_two: Context) -> Context:
    """Two sources are enough here, and a third of the time."""
    return published_two


def due(context: Context, days: Days = DAYS, version: str | None = None, cutoff: datetime | None = ON_TIME) -> list[tuple[date, str, str]]:
    return [(e.ds, e.stage, e.reason) for e in plan_days.run(context, days, version, cutoff)]


def test_a_published_history_has_nothing_due_but_late_rows(published: Context) -> None:
    """Rows of the 1st and 2nd that came a day late are due by default; their features are made again up to what is known now."""
    assert due(published) == []
    entries = plan_days.run(published, DAYS)
    assert {(e.ds, e.stage) for e in entries if e.reason.endswith("late rows since")} == {(ds, "build_user_features") for ds in (FIRST, SECOND)}
    assert all(e.cutoff is not None for e in entries if e.stage == "build_user_features")
    users = {row.ds: row["count"] for row in published.lake.read("user_features").groupBy("ds").count().collect()}
    assert all(e.rows == users[e.ds] for e in entries), "the day's own"
    assert all(e.seconds for e in entries), "by the ledger"


def test_a_day_never_run_needs_every_stage(writable: Context) -> None:
    """The first says why; the others follow it."""
    after = date(2024, 1, 4)
    assert [(stage, reason) for _, stage, reason in due(writable, Days(LAST, after))] == [
        ("validate_sources", "never ran"),
        ("build_user_features", "validate_sources comes first"),
        ("encode_users", "build_user_features comes first"),
        ("audit_tokens", "encode_users comes first"),
        ("publish_tokens", "audit_tokens comes first"),
    ]


def test_changed_rows_definitions_and_failures_are_named(writable: Context) -> None:
    """Each on the day and stage where it is; a comment is no change."""
    writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path('source_bill')}` WHERE ds = '2024-01-02'").collect()
    assert due(writable)[0] == (SECOND, "build_user_features", "rows changed in bill")
    assert {ds for ds, _, _ in due(writable)} == {SECOND}
    bill, *others = writable.catalog.sources
    catalog = writable.catalog.model_copy(update={"sources": (bill.model_copy(update={"template": "{product}"}), *others)})
    assert {reason for _, stage, reason in due(replace(writable, catalog=catalog)) if stage == "build_user_features"} == {"definition changed"}


def test_a_look_at_several_days_that_fails_counts_against_none(writable: Context) -> None:
    """A wrong --input: nothing was worked on. Asked for one day, it is that day's."""
    lost = replace(writable, input_root="/nowhere", run_id="lost")
    with pytest.raises(BadInput, match="nothing delivered at /nowhere"):
        validate_sources.run(lost, DAYS)
    assert due(writable) == []
    assert {(line.stage, line.status) for line in show_days.run(writable)} == {("publish_tokens", "done")}
    with pytest.raises(BadInput):
        validate_sources.run(lost, Days(SECOND, SECOND))
    assert due(writable)[0] == (SECOND, "validate_sources", "was refused")
    assert [line.status for line in show_days.run(writable)] == ["done", "refused", "done"]


def test_history_is_encoded_again_only_for_a_version_that_is_named(writable: Context) -> None:
    """Days published by another version are left alone by default."""
    row = writable.lake.read("tokenizers").withColumn("tokenizer_version", F.lit("v2"))
    writable.lake.append("tokenizers", row, {})
    promotion = writable.lake.read("promotions").withColumns({"tokenizer_version": F.lit("v2"), "seq": F.col("seq") + 1})
    writable.lake.append("promotions", promotion, {})
    assert due(writable) == []
    assert [(ds, stage, reason) for ds, stage, reason in due(writable, version="v2") if stage == "encode_users"] == [
        (ds, "encode_users", "not yet encoded by v2") for ds in DAYS
    ]
    with pytest.raises(GateRefused), record_stage(writable, "encode_users", Days(SECOND, SECOND), version="v2"):
        raise GateRefused("a day that the promoted version began is no history")
    assert due(writable)[0] == (SECOND, "encode_users", "was refused")
    assert {ds for ds, _, _ in due(writable)} == {SECOND}


def test_a_day_of_an_older_tokenizer_is_repaired_and_not_encoded_by_the_promoted_one(writable: Context) -> None:
    """Its features are made again; nobody asked for its history under the new version."""
    row = writable.lake.read("tokenizers").withColumn("tokenizer_version", F.lit("v2"))
    writable.lake.append("tokenizers", row, {})
    promotion = writable.lake.read("promotions").withColumns({"tokenizer_version": F.lit("v2"), "seq": F.col("seq") + 1})
    writable.lake.append("promotions", promotion, {})
    writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path('user_features')}` WHERE ds = '2024-01-02'").collect()
    assert [(ds, stage) for ds, stage, _ in due(writable)] == [(SECOND, "build_user_features")]
    assert backfill_days.run(writable, DAYS, cutoff=ON_TIME) == 1
    worked = writable.lake.read("runs").where("run_id = 'second'").collect()
    assert {row.stage for row in worked} == {"build_user_features"}
    assert writable.lake.read("staged_user_tokens").where("tokenizer_version = 'v2'").isEmpty()
    assert due(writable) == []


def test_a_backfill_does_what_is_due_and_nothing_else(published: Context, writable: Context) -> None:
    """The rows come back as they were; afterwards nothing is due, and a second backfill does nothing."""
    for table in ("user_features", "user_tokens", "staged_user_tokens"):
        writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path(table)}` WHERE ds >= '2024-01-02'").collect()
    told: list[Chunk] = []
    days = backfill_days.run(writable, DAYS, cutoff=ON_TIME, days_at_once=1, tell=lambda chunk, number, total: told.append(chunk))
    assert (days, [chunk.days for chunk in told]) == (2, [Days(SECOND, SECOND), ONLY_LAST])
    columns = [name for name in published.lake.read("user_tokens").columns if name not in ("run_id",)]
    ours, theirs = (c.lake.read("user_tokens").select(columns).orderBy("ds", "user_id").collect() for c in (writable, published))
    assert ours == theirs
    assert due(writable) == []
    assert backfill_days.run(writable, DAYS, cutoff=ON_TIME) == 0


def test_a_refused_day_holds_up_no_other(writable: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chunk goes on day by day; the backfill ends with its refusal, and only it is due."""
    publish = backfill_days.publish_tokens.run

    def gated(context: Context, days: Days, version: str | None) -> None:
        if SECOND in days:
            raise GateRefused("the 2nd is unlike the days before")
        publish(context, days, version)

    writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path('user_tokens')}`").collect()
    with monkeypatch.context() as patched:
        patched.setattr(backfill_days.publish_tokens, "run", gated)
        with pytest.raises(GateRefused, match=r"^the 2nd is unlike the days before$"):
            backfill_days.run(writable, DAYS, cutoff=ON_TIME)
    assert [(ds, stage) for ds, stage, _ in due(writable)] == [(SECOND, "publish_tokens")]
    assert backfill_days.run(writable, DAYS, cutoff=ON_TIME) == 1


def test_staged_rows_that_are_gone_are_encoded_again_when_something_reads_them(writable: Context) -> None:
    """A retention took them; until the gates change nobody misses them."""
    writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path('staged_user_tokens')}` WHERE ds = '2024-01-01'").collect()
    assert due(writable) == []
    drift = writable.catalog.drift.model_copy(update={"least_rows": 12_345})
    changed = replace(writable, catalog=writable.catalog.model_copy(update={"drift": drift}))
    assert due(changed, Days(FIRST, FIRST)) == [
        (FIRST, "encode_users", "its staged rows are gone"),
        (FIRST, "audit_tokens", "encode_users comes first"),
        (FIRST, "publish_tokens", "audit_tokens comes first"),
    ]
    assert backfill_days.run(changed, Days(FIRST, FIRST), cutoff=ON_TIME) == 1
    assert due(changed, Days(FIRST, FIRST)) == []


def test_a_run_id_has_room_for_the_passes_numbers(published: Context) -> None:
    """Before any work."""
    backfill_days.check_run_id("r" * 61)
    with pytest.raises(BadInput, match="found 62 characters, expected at most 61"):
        backfill_days.run(replace(published, run_id="r" * 62), DAYS)


@pytest.mark.parametrize("validated", [False, True])
def test_a_first_backfill_takes_late_rows_in(writable: Context, validated: bool) -> None:
    """Days that nobody ever worked on, each with rows that come with the next: published once, and once more with them, in one call."""
    for table in ("deliveries", "user_features", "staged_user_tokens", "user_tokens", "audits"):
        writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path(table)}`").collect()
    writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path('runs')}` WHERE stage <> 'train_tokenizer'").collect()
    if validated:
        validate_sources.run(replace(writable, run_id="before"), DAYS)
    assert backfill_days.run(writable, DAYS) == 3
    assert due(writable, cutoff=None) == []
    published = writable.lake.read("runs").where("stage = 'publish_tokens' AND status = 'done'").collect()
    assert {(row.run_id, row.ds_from, row.ds_to) for row in published} == {("second", FIRST, LAST), ("second-2", FIRST, SECOND)}
    assert not writable.lake.read("user_tokens_superseded").where("superseded_by_run = 'second-2'").isEmpty()


@pytest.mark.parametrize(("broken", "stage"), [("audit_tokens._write", "audit_tokens"), ("publish_tokens._keep_superseded", "publish_tokens")])
def test_a_repair_that_ends_before_its_publish_is_due(writable: Context, monkeypatch: pytest.MonkeyPatch, broken: str, stage: str) -> None:
    """The plan goes on where a full disk stopped it, and ends with the late rows published."""
    late = Days(FIRST, FIRST)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(f"jobs.{broken}", full)
        with pytest.raises(Infrastructure, match="disk full"):
            backfill_days.run(replace(writable, run_id="cut"), late)
    assert due(writable, late, cutoff=None)[0][1:] == (stage, "was refused")
    assert backfill_days.run(replace(writable, run_id="whole"), late) == 1
    assert due(writable, late, cutoff=None) == []
    assert not writable.lake.read("user_tokens_superseded").where("superseded_by_run = 'whole'").isEmpty()


def test_a_day_staged_again_is_audited_again_before_its_publish(writable: Context) -> None:
    """Killed after its encoding, which leaves an audit of other files behind."""
    late = Days(FIRST, FIRST)
    build_user_features.run(replace(writable, run_id="cut"), late, MUCH_LATER)
    encode_users.run(replace(writable, run_id="cut"), late)
    assert [stage for _, stage, _ in due(writable, late)] == ["audit_tokens", "publish_tokens"]
    assert backfill_days.run(writable, late, cutoff=ON_TIME) == 1
    assert due(writable, late) == []


def test_days_with_the_same_need_share_a_job() -> None:
    """Oldest first, no more at once than allowed, no day twice; another stage or cutoff parts them."""
    later = datetime(2024, 2, 1, tzinfo=UTC)
    entries = [Entry(ds=date(2024, 1, n), stage="encode_users", reason="") for n in (1, 2, 3, 5)]
    entries += [Entry(ds=date(2024, 1, 4), stage="build_user_features", reason="", cutoff=later), Entry(ds=date(2024, 1, 4), stage="encode_users", reason="")]
    found = chunks(entries, 2)
    assert [(c.days.first.day, c.days.last.day, c.stages[0]) for c in found] == [
        (1, 2, "encode_users"),
        (3, 3, "encode_users"),
        (4, 4, "build_user_features"),
        (5, 5, "encode_users"),
    ]
    assert found[2].cutoff == later


def test_a_validation_that_was_cut_short_is_due_where_a_retention_settled_the_day(writable: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days that look back on it are refused until it ends, so the plan has to name it."""
    monkeypatch.setattr(plan_days, "_settled", lambda context, days, features: dict.fromkeys(days, DAILY_STAGES))
    assert due(writable) == []
    delivery_gates.announce(writable, Days(FIRST, FIRST), validate_sources.STAGE)
    assert due(writable) == [(FIRST, "validate_sources", "was cut short")]


def test_a_validation_that_nobody_can_be_asked_about_is_no_gate(published: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another try may find it ended: on an object store, which has no locks, and where a living one takes too long."""
    elsewhere = replace(published, lake=Lakehouse(published.spark, "s3a://bucket/lake"))
    with pytest.raises(Infrastructure, match="2024-01-03 runs, or was cut short"):
        build_user_features._wait_for(elsewhere, Days(SECOND, SECOND), LAST, "bill", 0, time.monotonic())
    monkeypatch.setattr(build_user_features, "is_being_validated", lambda lake, ds: True)
    with pytest.raises(Infrastructure, match="2024-01-03 has not ended for 3600 s"):
        build_user_features._wait_for(published, Days(SECOND, SECOND), LAST, "bill", 0, time.monotonic() - 1)
