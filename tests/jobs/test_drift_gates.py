"""Gates that know yesterday: each one fails where it should, sampling alone never does, and a person's reason releases a day."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import audit_tokens, encode_users, plan_days, publish_tokens, show_status
from jobs.context import Context
from jobs.delta_tables import Where
from jobs.drift_gates import PRIOR, change, code_usage, compared_days, day_measures
from jobs.errors import BadInput, GateRefused
from jobs.gate_release import require_passed, require_reason
from jobs.ledger_rows import drift_lines
from jobs.recorded_removals import record_again, whole_days
from schemas.audits import AUDITS
from schemas.drift import DriftRules
from schemas.keys import Days
from schemas.table import Table

DS = date(2024, 1, 9)
WEEK = tuple(DS - timedelta(days=n) for n in range(7, 0, -1))
LAST = Days(date(2024, 1, 3), date(2024, 1, 3))
BOUNDS = [{"gate": gate, "warn": 0.3, "block": 0.5} for gate in ("users", "clean_rows", "null_values", "absent_slices", "code_usage")]
RULES = DriftRules.model_validate({"name": "test", "trailing_days": 7, "least_rows": 100, "gates": BOUNDS})


def severities(
    today: tuple[int, int],
    before: tuple[int, int] = (1000, 600),
    clean: Mapping[tuple[str, date], int] | None = None,
    usage: list[Row] | None = None,
    last: tuple[int, int] | None = None,
    nulls: Mapping[tuple[str, str, date], tuple[int, int]] | None = None,
) -> dict[str, str]:
    """What the gates say of (users, users with bill) after a week of `before`, its last day replaced by `last`."""
    days = dict.fromkeys(WEEK, before) | ({WEEK[-1]: last} if last else {}) | {DS: today}
    present = {ds: Row(ds=ds, users=users, bill=bill) for ds, (users, bill) in days.items()}
    return {m.gate: m.severity for m in day_measures(DS, WEEK, present, clean or {}, nulls or {}, usage or [], RULES)}


def test_users_halved_or_doubled_block() -> None:
    """And a day a little off warns; the same weekday a week before excuses a Sunday."""
    found = {users: severities((users, users * 6 // 10))["users"] for users in (0, 400, 600, 1000, 1500, 2500)}
    assert found == {0: "block", 400: "block", 600: "warn", 1000: "ok", 1500: "warn", 2500: "block"}
    assert severities((400, 240), before=(400, 240), last=(1000, 600))["users"] == "ok"


def test_clean_rows_of_one_source_block() -> None:
    """A source that fell silent although the users are as many as ever."""
    usual = {("bill", day): 5000 for day in WEEK}
    assert severities((1000, 600), clean=usual | {("bill", DS): 4900})["clean_rows"] == "ok"
    assert severities((1000, 600), clean=usual | {("bill", DS): 900})["clean_rows"] == "block"
    assert severities((1000, 600), clean=usual)["clean_rows"] == "block"


def test_values_that_are_suddenly_absent_block() -> None:
    """The share of rows without a value, against that of all trailing days; a column that is new has no past, and few rows are not judged."""
    usual = {("bill", "counterparty_type", day): (20, 1000) for day in WEEK}

    def said(absent: int, rows: int, past: Mapping[tuple[str, str, date], tuple[int, int]]) -> str | None:
        return severities((1000, 600), nulls={**past, ("bill", "counterparty_type", DS): (absent, rows)}).get("null_values")

    assert (said(20, 1000, usual), said(400, 1000, usual), said(900, 1000, usual)) == ("ok", "warn", "block")
    assert (said(45, 50, usual), said(900, 1000, {}), severities((1000, 600), nulls=usual).get("null_values")) == ("few", None, None)


def test_a_source_absent_from_most_users_blocks() -> None:
    """The share without it is compared with that of all trailing days."""
    assert {bill: severities((1000, bill))["absent_slices"] for bill in (600, 250, 50)} == {600: "ok", 250: "warn", 50: "block"}


def test_other_codes_block_and_too_few_are_not_judged() -> None:
    """PSI counts above the noise of the sample."""

    def said(psi: float, noise: float, slices: int) -> str:
        return severities((1000, 600), usage=[Row(ds=DS, source="bill", level=1, found=slices, usual=4000, psi=psi, noise=noise)])["code_usage"]

    assert (said(0.6, 0.05, 600), said(0.6, 0.2, 600), said(0.6, 0.4, 600), said(9.0, 0.0, 99)) == ("block", "warn", "ok", "few")


def test_first_days_have_nothing_to_compare_with() -> None:
    """No day before: no figure, no refusal."""
    assert day_measures(DS, (), {DS: Row(ds=DS, users=5, bill=1)}, {}, {}, [], RULES) == []
    assert change(0, 0) == 0


def test_a_chunk_is_compared_as_its_days_would_be_one_by_one() -> None:
    """Days of the chunk stand for what will be published; later published days are never looked at."""
    published = {DS + timedelta(days=n) for n in (-9, -5, 0, 4)}
    found = compared_days(published, Days(DS, DS + timedelta(days=1)), 2)
    assert found == {DS: (DS - timedelta(days=9), DS - timedelta(days=5)), DS + timedelta(days=1): (DS - timedelta(days=5), DS)}
    assert compared_days(published, Days(DS, DS + timedelta(days=1)), 2, {DS})[DS + timedelta(days=1)] == (DS - timedelta(days=9), DS - timedelta(days=5))


def test_psi_is_that_of_the_counts_and_noise_is_what_sampling_gives(spark: SparkSession) -> None:
    """Against a direct computation; draws of one distribution stay within the noise, a shifted one far above it."""
    random, size, history = np.random.default_rng(5), 16, {DS: WEEK[-2:]}
    usual = random.dirichlet(np.ones(size))
    days = {WEEK[-2]: random.choice(size, 900, p=usual), WEEK[-1]: random.choice(size, 700, p=usual), DS: random.choice(size, 800, p=usual)}
    rows = [(ds, [int(code), int(code) if ds != DS else 0]) for ds, codes in days.items() for code in codes]
    tokens = spark.createDataFrame(rows, "ds date, bill_codes array<smallint>")
    same, shifted = code_usage(tokens, history, {("bill", 1): size, ("bill", 2): size}).orderBy("level").collect()
    found, before = (np.bincount(np.concatenate(side), minlength=size) + PRIOR for side in ([days[DS]], [days[day] for day in WEEK[-2:]]))
    p, q = found / found.sum(), before / before.sum()
    assert same.psi == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert (same.found, same.usual, shifted.found) == (800, 1600, 800)
    assert abs(same.psi - same.noise) < 0.05
    assert shifted.psi - shifted.noise > 1


def test_only_a_blocked_day_is_released_and_only_for_a_reason() -> None:
    """No failed suite, no day without audit or comparison; nothing to accept is an error too."""
    passed, blocked, failed, old = (Row(success=success, drift_blocked=drift) for success, drift in ((True, False), (True, True), (False, None), (True, None)))
    require_passed(DS, "v1", passed, None)
    require_passed(DS, "v1", blocked, "holiday")
    with pytest.raises(GateRefused, match=r"unlike the days before.*--accept REASON"):
        require_passed(DS, "v1", blocked, None)
    with pytest.raises(GateRefused, match="never one whose suite failed"):
        require_passed(DS, "v1", failed, "holiday")
    with pytest.raises(GateRefused, match="does not exist"):
        require_passed(DS, "v1", None, "holiday")
    with pytest.raises(GateRefused, match="did not compare it"):
        require_passed(DS, "v1", old, None)
    with pytest.raises(BadInput, match="nothing to accept"):
        require_passed(DS, "v1", passed, "holiday")
    for reason in ("", "  ", "two\nlines", "x" * 501):
        with pytest.raises(BadInput, match="expected a reason on one line"):
            require_reason(LAST, reason)
    with pytest.raises(BadInput, match="one day"):
        require_reason(Days(DS, DS + timedelta(days=1)), "holiday")


def unlike(context: Context, until: date = date(2024, 1, 2)) -> Context:
    """`context` with another past up to a day: twenty times the bills, half the users, none with search, one code for all apps."""
    catalog = context.catalog.model_copy(update={"drift": RULES.model_copy(update={"least_rows": 10})})
    past = Days(date(2024, 1, 1), until)
    where = Where(days=past, equals=(("tokenizer_version", "v1"),))
    rows = context.lake.read("user_tokens").where(f"ds <= '{until}'").localCheckpoint()
    app = F.when(F.col("app_codes").isNotNull(), F.array(*(F.lit(31).cast("smallint") for _ in range(4))))
    changed = rows.where("row_hash % 3 = 0").withColumns({"app_codes": app, "search_codes": F.lit(None).cast("array<smallint>")})
    context.lake.replace("user_tokens", changed, where, {})
    delivered = context.lake.read("deliveries").where(f"delivered_ds <= '{until}'").localCheckpoint()
    bills = F.when(F.col("source") == "bill", 20).otherwise(1)
    more = {name: (F.col(name) * bills).cast("bigint") for name in ("rows_in", "clean", "quarantined", "duplicates")}
    more["nulls"] = F.transform_values("nulls", lambda column, n: F.when(column == "stay", F.col("clean")).otherwise(n * bills))
    context.lake.replace("deliveries", delivered.withColumns(more), Where(days=past, day_column="delivered_ds"), {})
    return replace(context, catalog=catalog)


def test_a_blocked_day_waits_for_a_reason_that_is_kept(writable: Context) -> None:
    """Every gate speaks; the reason stands in the ledger and in the commit; status tells the way at each step."""
    context = unlike(writable)
    with pytest.raises(
        GateRefused, match=r"(?s)users: .*clean_rows bill: .*null_values mini_program stay: .*absent_slices search: .*code_usage app level 1: .*--accept REASON"
    ):
        audit_tokens.run(context, LAST)
    with pytest.raises(GateRefused, match="unlike the days before"):
        publish_tokens.run(context, LAST)
    status = show_status.run(context, LAST.first)
    assert {s.stage: s.status for s in status.stages}["audit_tokens"] == "blocked"
    assert status.next.commands[-1] == "u2qt publish --ds 2024-01-03 --accept REASON"
    assert any(line.startswith("block clean_rows of bill") for line in status.drift)
    later = replace(context, run_id="third")
    publish_tokens.run(later, LAST, accept="bills came twice last week")
    history = context.spark.sql(f"DESCRIBE HISTORY delta.`{context.lake.path('user_tokens')}` LIMIT 1").first()
    assert history is not None
    assert json.loads(history.userMetadata)["accepted"] == "bills came twice last week"
    (ledger,) = context.lake.read("runs").where("run_id = 'third'").collect()
    assert json.loads(ledger.detail)["accepted"] == "bills came twice last week"
    assert {s.stage: s.status for s in show_status.run(context, LAST.first).stages}["audit_tokens"] == "accepted"
    again = replace(context, run_id="fourth")
    audit_tokens.run(again, LAST)
    publish_tokens.run(again, LAST)
    rows = context.lake.read("runs").where("run_id = 'fourth'").collect()
    assert {(row.stage, row.status) for row in rows} == {("audit_tokens", "skipped"), ("publish_tokens", "skipped")}, "these very rows were accepted"
    encode_users.run(replace(context, run_id="staged again"), LAST, "v1", force=True)
    for stage in (audit_tokens, publish_tokens):
        stage.run(replace(context, run_id="staged again"), LAST)  # the same rows in other files
    with pytest.raises(GateRefused, match="--accept REASON"):
        audit_tokens.run(replace(context, run_id="fifth"), LAST, force=True)
    assert [e.stage for e in plan_days.run(context, LAST, cutoff=datetime(2024, 1, 1, tzinfo=UTC)) if e.stage in ("audit_tokens", "publish_tokens")] == []
    publish_tokens.run(replace(context, run_id="sixth"), LAST)
    publish_tokens.run(replace(context, run_id="seventh"), LAST, accept="they came twice")
    (ledger,) = context.lake.read("runs").where("run_id = 'seventh'").collect()
    assert (ledger.status, json.loads(ledger.detail)["accepted"]) == ("done", "they came twice"), "also of rows that are published already"
    whole = whole_days(context, LAST)
    somebody = context.lake.read("user_tokens").where(f"ds = '{LAST.first}'").agg(F.min("user_id")).collect()[0][0]
    for table in ("user_features", "staged_user_tokens", "user_tokens"):
        gone = context.spark.sql(f"DELETE FROM delta.`{context.lake.path(table)}` WHERE ds = '{LAST.first}' AND CAST(user_id AS STRING) = '{somebody}'")
        assert gone.collect()[0][0] == 1
    assert record_again(replace(context, run_id="removal"), whole) == 3
    after = replace(context, run_id="eighth")
    audit_tokens.run(after, LAST)
    publish_tokens.run(after, LAST)
    rows = context.lake.read("runs").where("run_id = 'eighth'").collect()
    assert {(row.stage, row.status) for row in rows} == {("audit_tokens", "skipped"), ("publish_tokens", "skipped")}, (
        "the reason stands for the rows that are left"
    )


def test_a_blocked_day_is_no_yesterday_of_the_next_one(writable: Context) -> None:
    """Two days unlike the one before them, audited together: both are blocked, as one after the other."""
    context = unlike(writable, date(2024, 1, 1))
    both = Days(date(2024, 1, 2), LAST.last)
    context.spark.sql(f"DELETE FROM delta.`{context.lake.path('user_tokens')}` WHERE ds > '2024-01-01'").collect()
    with pytest.raises(GateRefused, match=r"(?s)2024-01-02, not like the 1 days before it.*2024-01-03, not like the 1 days before it"):
        audit_tokens.run(context, both, force=True)
    with pytest.raises(GateRefused, match="unlike the days before"):
        publish_tokens.run(context, LAST)
    assert len({row.ds for row in context.lake.read("audits").where("run_id = 'second' AND drift_blocked").collect()}) == 2


def test_the_first_days_pass_and_say_what_they_could_not_know(published: Context) -> None:
    """Nothing before the first day, one day before the second; the 60 users of the fixture are too few to judge."""
    audits = {row.ds.day: row for row in published.lake.read("audits").collect()}
    assert not any(row.drift_blocked for row in audits.values())
    assert drift_lines(audits[1].drift) == ("no day is published before it: nothing to compare with",)
    assert drift_lines(audits[2].drift)[-1].startswith("compared with 1 of 7 days; ")
    assert json.loads(audits[3].drift)["compared_with"] == ["2024-01-01", "2024-01-02"]


def test_an_earlier_lakehouse_gets_the_new_columns_by_init(context: Context) -> None:
    """Without them nothing is read as passed, and nothing is written without its figures."""
    early = Table(name="audits", comment=AUDITS.comment, fields=tuple(f for f in AUDITS.fields if not f.later))
    context.lake.create(early)
    for use in (lambda: context.lake.read_declared(AUDITS), lambda: context.lake.append("audits", context.lake.frame(AUDITS, []), {})):
        with pytest.raises(BadInput, match=r"no column .*(drift_blocked|staged_files).*"):
            use()
    assert context.lake.add_later_columns(AUDITS) == ["drift", "drift_blocked", "audited_at", "staged_files"]
    assert context.lake.add_later_columns(AUDITS) == []
    fields = {field.name: field for field in context.lake.read_declared(AUDITS).schema}
    assert "accept" in fields["drift_blocked"].metadata["comment"]
