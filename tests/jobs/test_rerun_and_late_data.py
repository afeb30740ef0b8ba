"""Running again: unchanged work is recognised and skipped, late rows change their own day and only the users they are of."""

import json
import shutil
from collections.abc import Set
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs import audit_tokens, available_rows, backfill_days, build_user_features, delivery_gates, encode_users, plan_days, publish_tokens, validate_sources
from jobs.changed_days import being_validated, is_being_validated
from jobs.context import Context
from jobs.day_states import sums_by_day
from jobs.delta_tables import Lakehouse
from jobs.errors import BadInput, GateRefused, Infrastructure
from jobs.label_input import published_repairs
from jobs.ledger import record_stage
from schemas.catalog import Catalog, Source
from schemas.keys import Days

DAYS = Days(date(2024, 1, 1), date(2024, 1, 3))
SECOND = Days(date(2024, 1, 2), date(2024, 1, 2))
RECOVERED = "its commit stands and its ledger row was lost; found by again"
MUCH_LATER = datetime(2024, 2, 1, tzinfo=UTC)
NO_LATER = datetime(2023, 1, 1, tzinfo=UTC)  # a plan's cutoff by which no row is late
STAGES = (validate_sources, build_user_features, encode_users, audit_tokens, publish_tokens)


@pytest.fixture
def published(published_two: Context) -> Context:
    """Two sources are enough here, and a third of the time."""
    return published_two


def run_day(context: Context, days: Days, cutoff: datetime | None = None, *, force: bool = False) -> None:
    validate_sources.run(context, days, force=force)
    build_user_features.run(context, days, cutoff, force=force)
    for stage in (encode_users, audit_tokens, publish_tokens):
        stage.run(context, days, "v1", force=force)


def statuses(context: Context) -> dict[str, str]:
    rows = context.lake.read("runs").where(F.col("run_id") == context.run_id).orderBy("started_at").collect()
    return {row.stage: row.status for row in rows}


def tokens(context: Context, *ignored: str) -> list[object]:
    rows = context.lake.read("user_tokens")
    return [tuple(row) for row in rows.drop("run_id", *ignored).orderBy("ds", "user_id").collect()]


def test_a_second_run_skips_every_stage_and_writes_nothing(published: Context, writable: Context) -> None:
    """The ledger says so; no other table has a new version; `force` works all the same and gives the same rows."""
    tables = ("source_bill", "quarantine_bill", "deliveries", "user_features", "staged_user_tokens", "audits", "user_tokens")
    before = {table: writable.lake.version(table) for table in tables}
    run_day(writable, DAYS)
    assert statuses(writable) == {stage.STAGE: "skipped" for stage in STAGES}
    assert {table: writable.lake.version(table) for table in tables} == before
    forced = replace(writable, run_id="third")
    run_day(forced, SECOND, force=True)
    assert statuses(forced) == {stage.STAGE: "done" for stage in STAGES}
    assert tokens(forced) == tokens(published)
    assert writable.lake.read("user_tokens_superseded").isEmpty()


def test_a_stage_whose_rows_were_changed_by_other_hands_works_again(published: Context, writable: Context) -> None:
    """Only the day concerned; and the rows come back as they were."""
    staged = writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path('staged_user_tokens')}` WHERE ds = '2024-01-02'")
    assert staged.collect()[0][0] > 0
    encode_users.run(writable, DAYS, "v1")
    rows = writable.lake.read("runs").where("run_id = 'second'").orderBy("ds_from").collect()
    assert [(str(row.ds_from), row.status) for row in rows] == [("2024-01-01", "skipped"), ("2024-01-02", "done"), ("2024-01-03", "skipped")]
    assert rows[1].rows["encoded"] == 0
    assert rows[1].rows["reused"] == rows[1].rows["user_features"] > 0
    audit_tokens.run(writable, DAYS, "v1")
    publish_tokens.run(writable, DAYS, "v1")
    assert tokens(writable) == tokens(published)


def test_a_changed_definition_is_worked_again_and_a_changed_comment_is_not(writable: Context) -> None:
    """A template changes features; a description changes nothing."""
    bill, *others = writable.catalog.sources
    explained = replace(writable, run_id="explained", catalog=with_source(writable, bill.model_copy(update={"description": "Other words."}), others))
    build_user_features.run(explained, SECOND)
    assert statuses(explained) == {"build_user_features": "skipped"}
    shorter = replace(writable, run_id="shorter", catalog=with_source(writable, bill.model_copy(update={"max_text_chars": 40}), others))
    build_user_features.run(shorter, SECOND)
    assert statuses(shorter) == {"build_user_features": "done"}


def with_source(context: Context, changed: Source, others: list[Source]) -> Catalog:
    return context.catalog.model_copy(update={"sources": (changed, *others)})


@pytest.fixture
def fed_late(writable: Context, simulated: Path, tmp_path: Path) -> Context:
    """`writable` after the delivery of the 3rd came again, now with late bills of two users of the 2nd."""
    raw = tmp_path / "raw"
    shutil.copytree(simulated / "raw", raw)
    clean = writable.lake.read("source_bill").where("ds = '2024-01-02' AND delivered_ds = '2024-01-02'")
    two = clean.groupBy("user_id").agg(F.min("bill_id").alias("bill_id")).orderBy("user_id").limit(2)
    delivered = writable.spark.read.parquet(str(raw / "bill" / "delivered_ds=2024-01-02"))
    again = delivered.dropDuplicates(["bill_id"]).join(two.select("bill_id"), on="bill_id", how="left_semi")
    late = again.withColumn("bill_id", F.concat(F.lit("late-"), "bill_id")).withColumn("delivered_at", F.lit("2024-01-03 20:00:00"))
    late.select(*delivered.columns).write.mode("append").parquet(str(raw / "bill" / "delivered_ds=2024-01-03"))
    return replace(writable, input_root=str(raw), run_id="late")


def test_late_rows_change_their_own_day_and_the_users_they_are_of(published: Context, fed_late: Context, tmp_path: Path) -> None:
    """The result equals a full run of the day in all but `run_id` and `available_at`; what was known then is kept."""
    validate_sources.run(fed_late, DAYS)
    build_user_features.run(fed_late, DAYS)
    done = fed_late.lake.read("runs").where("run_id = 'late' AND status = 'done'").collect()
    assert [(row.stage, str(row.ds_from), str(row.ds_to)) for row in done] == [("validate_sources", "2024-01-03", "2024-01-03")], "known after the cutoff"
    run_day(fed_late, SECOND, MUCH_LATER)
    keys = ("user_id", "row_hash")
    before, after = (c.lake.read("user_features").where("ds = '2024-01-02'").select(*keys) for c in (published, fed_late))
    changed = after.subtract(before).count()
    encoded = fed_late.lake.read("runs").where("stage = 'encode_users' AND run_id = 'late' AND status = 'done'").collect()
    assert [(row.rows["encoded"], row.rows["reused"]) for row in encoded] == [(changed, after.count() - changed)]
    assert 2 <= changed < after.count() / 2
    superseded = fed_late.lake.read("user_tokens_superseded")
    assert {row.superseded_by_run for row in superseded.collect()} == {"late"}
    assert superseded.count() == before.subtract(after).count()
    shutil.copytree(fed_late.lake.root, tmp_path / "full")
    full = replace(fed_late, lake=Lakehouse(fed_late.spark, str(tmp_path / "full")), run_id="full")
    run_day(full, SECOND, MUCH_LATER, force=True)
    assert tokens(full, "available_at") == tokens(fed_late, "available_at") != tokens(published, "available_at")


def test_a_publish_that_lost_its_ledger_row_gets_it_from_the_next_run(fed_late: Context) -> None:
    """Its process died between its commit and that row. The rows that it superseded stay known although its `run_id` is replaced."""
    validate_sources.run(fed_late, DAYS)
    run_day(fed_late, SECOND, MUCH_LATER)
    superseded = fed_late.lake.read("user_tokens_superseded").count()
    assert known_repairs(fed_late) == superseded > 0
    fed_late.spark.sql(f"DELETE FROM delta.`{fed_late.lake.path('runs')}` WHERE run_id = 'late' AND stage = 'publish_tokens'")
    again = replace(fed_late, run_id="again")
    publish_tokens.run(again, SECOND, "v1")
    assert statuses(again) == {"publish_tokens": "done"}
    (row,) = fed_late.lake.read("runs").where("run_id = 'late' AND stage = 'publish_tokens'").collect()
    assert (row.status, str(row.ds_from), json.loads(row.detail)) == ("done", "2024-01-02", {"recovered": RECOVERED})
    assert known_repairs(fed_late) == superseded
    assert fed_late.lake.read("user_tokens").where("run_id = 'late'").isEmpty()


def known_repairs(context: Context) -> int:
    tables = (context.lake.read(table) for table in ("user_tokens_superseded", "user_tokens", "runs"))
    return published_repairs(*tables).count()


def features_of_the_second(context: Context) -> list[Row]:
    rows = context.lake.read("user_features").where("ds = '2024-01-02'")
    return sorted(rows.select(F.col("user_id").cast("string"), "row_hash", "available_at").collect())


def test_running_a_repaired_day_again_does_not_undo_the_repair(fed_late: Context) -> None:
    """Without a cutoff the repair's holds; an explicit one is obeyed."""
    validate_sources.run(fed_late, DAYS)
    build_user_features.run(fed_late, SECOND, MUCH_LATER)
    rows = features_of_the_second(fed_late)
    again = replace(fed_late, run_id="again")
    build_user_features.run(again, DAYS)
    assert statuses(again) == {"build_user_features": "skipped"}
    build_user_features.run(replace(fed_late, run_id="forced"), SECOND, force=True)
    assert features_of_the_second(fed_late) == rows
    assert {row.available_at.astimezone(UTC) for row in rows} == {MUCH_LATER}
    build_user_features.run(replace(fed_late, run_id="back"), SECOND, available_rows.default_cutoff(fed_late.catalog, SECOND.first))
    assert features_of_the_second(fed_late) != rows


def test_a_run_that_waited_for_a_repair_does_not_undo_it(fed_late: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asked for the day before the repair had ended, and gets it afterwards."""
    validate_sources.run(fed_late, DAYS)
    held = build_user_features.changed_days

    def repaired_meanwhile(*arguments: object, **options: object) -> AbstractContextManager[list[Days]]:
        monkeypatch.undo()
        build_user_features.run(fed_late, SECOND, MUCH_LATER)
        return held(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(build_user_features, "changed_days", repaired_meanwhile)
    waited = replace(fed_late, run_id="waited")
    build_user_features.run(waited, SECOND)
    assert statuses(waited) == {"build_user_features": "skipped"}
    assert {row.available_at.astimezone(UTC) for row in features_of_the_second(fed_late)} == {MUCH_LATER}


def test_the_default_cutoff_is_the_same_in_python_and_spark(ready: Context) -> None:
    """Also on days when clocks change, and for a zone that skips midnight."""
    for zone, ds in (("Asia/Shanghai", date(2024, 1, 1)), ("America/Sao_Paulo", date(2018, 11, 3)), ("Europe/Berlin", date(2024, 10, 26))):
        header = ready.catalog.header.model_copy(update={"time_zone": zone})
        catalog = ready.catalog.model_copy(update={"header": header})
        row = ready.spark.createDataFrame([(ds,)], "ds DATE").select(F.unix_seconds(available_rows.cutoff(catalog, None)).alias("at")).first()
        assert row is not None
        assert row["at"] == int(available_rows.default_cutoff(catalog, ds).timestamp()), zone


def known_from(context: Context, table: str, version: str = "v1") -> dict[str, datetime]:
    rows = context.lake.read(table).where(f"ds = '2024-01-02' AND tokenizer_version = '{version}'")
    return {row.user_id: row.available_at for row in rows.select("user_id", "available_at").collect()}


@pytest.mark.parametrize(("cutoff", "lag"), [(None, "6h"), (MUCH_LATER, "6h"), (None, "12h")], ids=["run again", "repaired", "another lag"])
def test_what_changes_a_published_day_is_known_from_then_on(published: Context, fed_late: Context, cutoff: datetime | None, lag: str) -> None:
    """Bills delivered in time by their own words, and seen after the day was published: whoever decided before did not know them.

    A repair's cutoff, of a time when nobody knew them either, says nothing of them, nor does a catalog that waits longer for its rows. Nor does a
    version that publishes the day for the first time.
    """
    header = fed_late.catalog.header.model_copy(update={"delivery_lag": lag})
    fed_late = replace(fed_late, catalog=fed_late.catalog.model_copy(update={"header": header}))
    raw = Path(fed_late.input_root) / "bill" / "delivered_ds=2024-01-02"
    delivered = fed_late.spark.read.parquet(str(raw))
    clean = fed_late.lake.read("source_bill").where("ds = '2024-01-02' AND delivered_ds = '2024-01-02'").orderBy("bill_id").limit(1).select("bill_id")
    extra = delivered.join(clean, on="bill_id", how="left_semi").limit(1).withColumn("bill_id", F.lit("again")).withColumn("uid", F.lit("u-new"))
    more = delivered.dropDuplicates(["uid"]).limit(20).withColumn("bill_id", F.concat(F.lit("again-"), F.col("uid")))
    extra.unionByName(more).write.mode("append").parquet(str(raw))
    begun = datetime.now(UTC)
    run_day(fed_late, SECOND, cutoff)
    before, after, superseded = known_from(published, "user_tokens"), known_from(fed_late, "user_tokens"), known_from(fed_late, "user_tokens_superseded")
    assert superseded
    assert superseded.items() <= before.items()
    changed = {*superseded, *({*after} - {*before})}
    assert len(changed) > len(superseded), "a new user too"
    assert all(after[user].astimezone(UTC) >= begun for user in changed)
    assert {user: known for user, known in after.items() if user not in changed} == {user: before[user] for user in after if user not in changed}
    again = replace(fed_late, run_id="again")
    publish_tokens.run(again, SECOND, "v1", force=True)
    assert known_from(again, "user_tokens") == after
    again.lake.append("tokenizers", again.lake.read("tokenizers").withColumn("tokenizer_version", F.lit("v2")), {})
    for stage in (encode_users, audit_tokens, publish_tokens):
        stage.run(again, SECOND, "v2")
    assert known_from(again, "user_tokens", "v2") == after


def test_a_version_s_first_word_on_a_day_is_known_as_other_versions_had_it(spark: SparkSession) -> None:
    """From when they say the same; a user of whom they say something else is known from now on, but for rows that a repair of today lets in."""
    schema = "user_id string, ds date, tokenizer_version string, row_hash bigint, bill_codes array<smallint>, available_at timestamp, run_id string"
    ds, early, late, now = SECOND.first, datetime(2024, 1, 3, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)

    def rows(version: str, hashes: dict[str, int], known: datetime) -> DataFrame:
        return spark.createDataFrame([(user, ds, version, row_hash, [1], known, "r") for user, row_hash in hashes.items()], schema)

    elsewhere = rows("v1", {"same": 1, "other": 2}, early).unionByName(rows("v1", {"repaired": 3}, late)).unionByName(rows("v0", {"same": 1, "other": 4}, late))

    def first_word(known: datetime, rewritten: Set[date] = frozenset(), elsewhere: DataFrame | None = elsewhere) -> dict[str, datetime]:
        before = publish_tokens.Before(rows=rows("v2", {}, early), elsewhere=elsewhere, rewritten=rewritten)
        found = publish_tokens.published_rows(rows("v2", {"same": 1, "other": 5, "repaired": 3, "new": 6}, known), before, ("bill",), "now", now)
        return {row.user_id: row.available_at.astimezone(UTC) for row in found.collect()}

    said = {"same": early, "repaired": late}
    assert first_word(early) == said | {"other": now, "new": now}
    assert first_word(datetime(2024, 1, 20, tzinfo=UTC)) == said | dict.fromkeys(("other", "new"), datetime(2024, 1, 20, tzinfo=UTC))
    assert first_word(datetime(2024, 1, 20, tzinfo=UTC), {ds}) == said | {"other": now, "new": now}
    everybody = ("same", "other", "repaired", "new")
    assert first_word(early, elsewhere=None) == dict.fromkeys(everybody, early), "the day's first publish"
    assert first_word(early, {ds}, None) == dict.fromkeys(everybody, now), "it was published without rows"


def test_a_row_that_was_withdrawn_and_comes_back_is_known_after_all_that_was_said(spark: SparkSession) -> None:
    """Else the join would show the withdrawn row, as the one that was known last."""
    schema = "user_id string, ds date, tokenizer_version string, row_hash bigint, bill_codes array<smallint>, available_at timestamp, run_id string"
    early, cutoff, withdrawn, now = (datetime(2024, month, 3, tzinfo=UTC) for month in (1, 2, 3, 4))

    def row(row_hash: int, known: datetime, user: str) -> DataFrame:
        return spark.createDataFrame([(user, SECOND.first, "v1", row_hash, [1], known, "r")], schema)

    before = publish_tokens.Before(rows=row(1, early, "other"), superseded=row(2, withdrawn, "back"))
    found = publish_tokens.published_rows(row(3, cutoff, "back"), before, ("bill",), "now", now).collect()
    assert [each.available_at.astimezone(UTC) for each in found] == [now]


def noted_rewritten(context: Context) -> bool:
    """By the last build of the second day."""
    row = context.lake.read("runs").where("stage = 'build_user_features' AND status = 'done'").orderBy(F.desc("started_at")).collect()[0]
    return "2024-01-02" in json.loads(row.detail or "{}").get(available_rows.REWRITTEN, [])


def test_a_cutoff_speaks_for_late_rows_alone(fed_late: Context) -> None:
    """Not for those that a replay let in, nor where the ledger doesn't know that the day was published."""
    validate_sources.run(fed_late, DAYS)
    build_user_features.run(fed_late, SECOND, MUCH_LATER)
    assert not noted_rewritten(fed_late)
    with record_stage(fed_late, "replay_quarantine", Days(DAYS.last, DAYS.last)):
        pass  # of the delivery with the late rows
    build_user_features.run(fed_late, SECOND, MUCH_LATER, force=True)
    assert noted_rewritten(fed_late)
    runs = fed_late.lake.path("runs")
    for seconds, among in ((1.0, False), (1e9, True)):  # begun before the build that was published, and ended before it or after it
        fed_late.spark.sql(f"UPDATE delta.`{runs}` SET started_at = '2001-01-01', seconds = {seconds} WHERE stage = 'replay_quarantine'")
        assert (SECOND.first in available_rows.rewritten(fed_late, SECOND, MUCH_LATER, {})) is among, seconds
    fed_late.spark.sql(f"DELETE FROM delta.`{fed_late.lake.path('runs')}` WHERE stage IN ('replay_quarantine', 'publish_tokens')")
    build_user_features.run(fed_late, SECOND, MUCH_LATER, force=True)
    assert noted_rewritten(fed_late)


def test_a_day_in_a_range_that_was_never_built_is_refused_and_empty_ones_pass(writable: Context) -> None:
    """Each day by itself: a neighbour's rows say nothing of it, nor need two empty days be built in one run."""
    after = Days(date(2024, 1, 3), date(2024, 1, 5))
    with pytest.raises(BadInput, match="2024-01-04 to 2024-01-05: no rows and never built"):
        encode_users.run(writable, after, "v1")
    with pytest.raises(BadInput, match="2024-01-04 to 2024-01-05, v1: no rows and never encoded"):
        audit_tokens.run(writable, after, "v1")
    for ds in (date(2024, 1, 4), date(2024, 1, 5)):
        with record_stage(writable, build_user_features.STAGE, Days(ds, ds)):
            pass
    encode_users.run(writable, after, "v1")
    audit_tokens.run(writable, after, "v1")


def test_rows_of_a_blocked_delivery_are_in_no_day(published: Context, fed_late: Context) -> None:
    """They lie in the tables, of whatever day they tell: neither planned as late rows nor built."""
    validate_sources.run(fed_late, DAYS)
    before = len([e for e in plan_days.run(fed_late, SECOND) if e.reason.endswith("late rows since")])
    deliveries = fed_late.lake.path("deliveries")
    fed_late.spark.sql(f"UPDATE delta.`{deliveries}` SET gate = 'blocked' WHERE delivered_ds = '2024-01-03'")
    assert (before, [e for e in plan_days.run(fed_late, SECOND, cutoff=MUCH_LATER) if e.reason.endswith("late rows since")]) == (1, [])
    build_user_features.run(fed_late, SECOND, MUCH_LATER)
    hashes = [[(row["user_id"], row["row_hash"]) for row in features_of_the_second(context)] for context in (published, fed_late)]
    assert hashes[0] == hashes[1]


def test_a_build_that_failed_loses_no_repair(fed_late: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that the day had, nor the one that was under way: the plan still names its late rows."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    validate_sources.run(fed_late, DAYS)
    monkeypatch.setattr(build_user_features, "_reconcile", broken)
    with pytest.raises(ZeroDivisionError):
        build_user_features.run(fed_late, SECOND, MUCH_LATER)
    monkeypatch.undo()
    with pytest.raises(GateRefused, match=r"user_features, 2024-01-02: its rows are of a build that did not end well; run `u2qt build`"):
        encode_users.run(fed_late, SECOND, "v1")
    entry = plan_days.run(fed_late, SECOND, cutoff=MUCH_LATER)[0]
    assert (entry.stage, entry.reason, entry.cutoff) == ("build_user_features", "failed", MUCH_LATER)
    build_user_features.run(fed_late, SECOND, MUCH_LATER)
    rows = features_of_the_second(fed_late)
    monkeypatch.setattr(build_user_features, "_reconcile", broken)
    with pytest.raises(ZeroDivisionError):
        build_user_features.run(replace(fed_late, run_id="broken"), SECOND, force=True)
    monkeypatch.undo()
    build_user_features.run(replace(fed_late, run_id="again"), SECOND)
    assert features_of_the_second(fed_late) == rows


def test_features_whose_build_lost_its_ledger_row_are_encoded_where_they_are_what_an_earlier_one_left(writable: Context) -> None:
    """Told by their sums, for the run that wrote them is in no ledger; of other rows nothing is known."""
    build_user_features.run(replace(writable, run_id="lost"), SECOND, force=True)
    ledger = writable.lake.path("runs")
    writable.spark.sql(f"DELETE FROM delta.`{ledger}` WHERE run_id = 'lost'")
    encode_users.run(replace(writable, run_id="next"), SECOND, "v1", force=True)
    features = writable.lake.path("user_features")
    writable.spark.sql(f"UPDATE delta.`{features}` SET row_hash = row_hash + 1 WHERE ds = '2024-01-02'")
    with pytest.raises(GateRefused, match="its rows are of a build that did not end well"):
        encode_users.run(replace(writable, run_id="third"), SECOND, "v1", force=True)


def test_a_damaged_page_of_features_is_the_machine_s_fault_in_a_worker_too(writable: Context) -> None:
    """A footer that is whole over pages that are not: Petastorm finds it, in a Python worker."""
    for file in Path(writable.lake.path("user_features").removeprefix("file://"), "ds=2024-01-02").glob("*.parquet"):
        spoil(file, "profile_values")
    with pytest.raises(Infrastructure, match=r"a stored file can't be read, damaged or gone at .*/user_features/ds=2024-01-02/") as caught:
        encode_users.run(writable, SECOND, "v1", force=True)
    assert "StreamError" in str(caught.value.__cause__)


def spoil(file: Path, column: str) -> None:
    """The pages of one column, with Hadoop's checksum of the file gone."""
    content, group = bytearray(file.read_bytes()), pq.ParquetFile(file).metadata.row_group(0)
    chunk = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema.split(".")[0] == column)
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    content[begin : begin + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(content)
    file.with_name(f".{file.name}.crc").unlink(missing_ok=True)


def test_a_validation_that_was_killed_lets_nothing_be_built(published: Context, fed_late: Context) -> None:
    """Half of a delivery may be in the tables, past no gate: the plan says so, and the next validation mends it."""
    delivery_gates.announce(fed_late, SECOND, validate_sources.STAGE)  # what a killed one has done before its first table
    with pytest.raises(GateRefused, match="its last validation did not end"):
        build_user_features.run(replace(fed_late, run_id="early"), SECOND, force=True)
    assert next((e.stage, e.reason) for e in plan_days.run(fed_late, SECOND)) == ("validate_sources", "was cut short")
    run_day(replace(fed_late, run_id="mended"), SECOND)
    assert tokens(fed_late) == tokens(published)


def test_rows_of_a_validation_that_did_not_end_are_missing_in_no_other_day(fed_late: Context) -> None:
    """Late rows, and the profiles of earlier days: the day they belong to is refused, not built without them. A backfill validates first."""
    validate_sources.run(fed_late, DAYS)
    run_day(fed_late, SECOND, MUCH_LATER)
    before = tokens(fed_late)
    for cut_short, source in ((3, "bill"), (1, "profile")):
        day = Days(date(2024, 1, cut_short), date(2024, 1, cut_short))
        delivery_gates.announce(fed_late, day, validate_sources.STAGE)  # what a killed one has done before its first table
        refused = f"source {source}, 2024-01-02 to 2024-01-02: rows delivered on {day.first} belong .* run `u2qt validate --ds {day.first}` first"
        with pytest.raises(GateRefused, match=refused):
            build_user_features.run(replace(fed_late, run_id="early"), SECOND, force=True)
        assert backfill_days.run(replace(fed_late, run_id=f"mended-{source}"), DAYS, cutoff=NO_LATER) == 2, "that day, and the one that was refused"
        assert plan_days.run(fed_late, DAYS, cutoff=NO_LATER) == []
        assert tokens(fed_late) == before


def test_a_build_waits_for_a_validation_that_lives(writable: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its day; once it has ended its rows count."""
    first = Days(date(2024, 1, 1), date(2024, 1, 1))
    features = writable.lake.read("user_features").where("ds = '2024-01-02'").drop("run_id")
    before = features.collect()
    asked: list[bool] = []

    def living_and_then_ended(lake: Lakehouse, ds: date) -> bool:
        asked.append(is_being_validated(lake, ds))
        if len(asked) == 2:  # between the build's look at `deliveries` and its look at the lock
            validation.close()
            validate_sources.run(replace(writable, run_id="living"), first)
        return len(asked) == 1

    monkeypatch.setattr(build_user_features, "is_being_validated", living_and_then_ended)
    monkeypatch.setattr(build_user_features, "LOOK_AGAIN", 0.0)
    delivery_gates.announce(writable, first, validate_sources.STAGE)
    validation = ExitStack()
    validation.enter_context(being_validated(writable.lake, first))  # its process
    build_user_features.run(writable, SECOND, force=True)
    assert asked == [True, True]
    assert sorted(writable.lake.read("user_features").where("ds = '2024-01-02'").drop("run_id").collect()) == sorted(before)
    assert not is_being_validated(writable.lake, first.first)


def test_a_validation_without_its_input_changes_nothing(published: Context, writable: Context, tmp_path: Path) -> None:
    """Raw rows are kept shorter than ours: a day whose input is gone stands as it was, and days that look back on it are built."""
    gone = replace(writable, run_id="gone", input_root=str(tmp_path / "archived"))
    first = Days(date(2024, 1, 1), date(2024, 1, 1))
    deliveries = writable.lake.version("deliveries")
    for _ in range(2):
        with pytest.raises(BadInput, match="2024-01-01"):
            validate_sources.run(gone, first, force=True)
    assert writable.lake.version("deliveries") == deliveries
    build_user_features.run(writable, SECOND, force=True)
    assert sums_by_day(writable.lake.read("user_features"), DAYS) == sums_by_day(published.lake.read("user_features"), DAYS)


def test_a_run_id_used_twice_loses_no_replaced_row(fed_late: Context) -> None:
    """What a run superseded is kept by its name: called again it keeps that, and a second repair under the name is refused."""
    validate_sources.run(fed_late, DAYS)
    run_day(fed_late, SECOND, MUCH_LATER)
    superseded = fed_late.lake.read("user_tokens_superseded").count()
    publish_tokens.run(fed_late, SECOND, "v1", force=True)
    assert fed_late.lake.read("user_tokens_superseded").count() == superseded > 0
    build_user_features.run(fed_late, SECOND, available_rows.default_cutoff(fed_late.catalog, SECOND.first))
    encode_users.run(fed_late, SECOND, "v1")
    audit_tokens.run(fed_late, SECOND, "v1")
    with pytest.raises(BadInput, match="give another --run-id"):
        publish_tokens.run(fed_late, SECOND, "v1")
    publish_tokens.run(replace(fed_late, run_id="other"), SECOND, "v1")
    assert fed_late.lake.read("user_tokens_superseded").count() == 2 * superseded


def test_publishing_needs_no_old_version_of_the_stage(writable: Context) -> None:
    """A table's log goes after a month: the audit itself says which files it was of."""
    logs = writable.spark._jvm.org.apache.spark.sql.delta.DeltaLog  # type: ignore[union-attr]
    encode_users.run(writable, Days(date(2024, 1, 1), date(2024, 1, 1)), "v1", force=True)
    logs.forTable(writable.spark._jsparkSession, writable.lake.path("staged_user_tokens")).checkpoint()
    log = Path(writable.lake.path("staged_user_tokens")) / "_delta_log"
    newest = writable.lake.version("staged_user_tokens")
    for entry in log.glob("*.json"):
        if int(entry.stem) < newest:
            entry.unlink()
    publish_tokens.run(replace(writable, run_id="much-later"), SECOND, "v1", force=True)
    assert statuses(replace(writable, run_id="much-later")) == {"publish_tokens": "done"}


def test_the_last_audit_of_the_same_rows_counts(writable: Context) -> None:
    """A suite that was too strict is mended, and the day audited again."""
    audits = writable.lake.path("audits")
    writable.spark.sql(f"UPDATE delta.`{audits}` SET success = false WHERE ds = '2024-01-02'")
    with pytest.raises(GateRefused, match="its audit failed"):
        publish_tokens.run(writable, SECOND, "v1")
    audit_tokens.run(writable, SECOND, "v1", force=True)
    publish_tokens.run(writable, SECOND, "v1", force=True)
