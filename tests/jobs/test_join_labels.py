"""The point-in-time join against a brute-force oracle, and the command around it on literal rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import join_labels, label_input
from jobs.context import Context
from jobs.errors import BadInput, Infrastructure
from jobs.join_labels import join_tokens
from jobs.label_input import naming_labels
from schemas.table import Table

CODES = ("bill_codes", "search_codes")
TOKEN_TYPE = (
    "user_id STRING, ds DATE, tokenizer_version STRING, available_at TIMESTAMP, run_id STRING, bill_codes ARRAY<SMALLINT>, search_codes ARRAY<SMALLINT>"
)
SUPERSEDED_TYPE = f"{TOKEN_TYPE}, superseded_by_run STRING"
LABEL_TYPE = "label_id INT, user_id STRING, at TIMESTAMP"
ODD_KEYS = ("", " ", "a", "a ", "A", "1", "12", "null", "NULL", "o'brien", 'q"uote', "a,b", "a\nb", "\\N", "é", "e\u0301", "漢字", "\x00")
ZONES = {  # zone: a day near which its clocks change; the middle two skip midnight itself
    "Asia/Shanghai": date(2026, 1, 5),
    "America/Sao_Paulo": date(2018, 11, 4),
    "Asia/Beirut": date(2026, 3, 29),
    "America/New_York": date(2026, 11, 1),
}


@dataclass(frozen=True, kw_only=True)
class Known:
    """One token row, current or superseded."""

    user_id: str
    ds: date
    available_at: datetime
    bill: list[int] | None
    search: list[int] | None
    superseded_by: str | None = None

    @property
    def rank(self) -> tuple[date, datetime, bool, str]:
        return (self.ds, self.available_at, self.superseded_by is None, self.superseded_by or "")

    def row(self) -> tuple[object, ...]:
        row = (self.user_id, self.ds, "v1", self.available_at, "r", self.bill, self.search)
        return row if self.superseded_by is None else (*row, self.superseded_by)


@dataclass(frozen=True, kw_only=True)
class Case:
    zone: str
    lag: int
    sequence_days: int
    known: list[Known]
    labels: list[tuple[int, str | None, datetime | None]]


def oracle(case: Case, user_id: str | None, at: datetime | None, oldest: timedelta | None = None) -> list[Known]:
    """What a reader of the definition would do: per day the row available last, days in order."""
    if user_id is None or at is None:
        return []
    newest_day = at.astimezone(ZoneInfo(case.zone)).date() - timedelta(days=case.lag)
    rows = [k for k in case.known if k.user_id == user_id and k.available_at <= at and k.ds <= newest_day]
    if oldest is not None:
        rows = [k for k in rows if k.ds > newest_day - oldest]
    return [max((k for k in rows if k.ds == ds), key=lambda k: k.rank) for ds in sorted({k.ds for k in rows})]


def frames(spark: SparkSession, case: Case) -> tuple[DataFrame, DataFrame, DataFrame]:
    current = [k.row() for k in case.known if k.superseded_by is None]
    replaced = [k.row() for k in case.known if k.superseded_by is not None]
    return (
        spark.createDataFrame(case.labels, LABEL_TYPE),
        spark.createDataFrame(current, TOKEN_TYPE),
        spark.createDataFrame(replaced, SUPERSEDED_TYPE),
    )


def joined(spark: SparkSession, case: Case, sequence_days: int | None) -> dict[int, tuple[object, ...]]:
    labels, tokens, superseded = frames(spark, case)
    df = join_tokens(
        labels,
        tokens,
        superseded,
        tokenizer_version="v1",
        at="at",
        time_zone=case.zone,
        lag=timedelta(days=case.lag),
        sequence_days=sequence_days,
    )
    columns = CODES if sequence_days is None else ("sequence",)
    found = df.select("label_id", "token_ds", F.unix_micros("token_available_at"), "tokenizer_version", *columns).collect()
    assert sorted(row["label_id"] for row in found) == sorted(label[0] for label in case.labels)
    return {row["label_id"]: tuple(row)[1:] for row in found}


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def expected_latest(case: Case, user_id: str | None, at: datetime | None) -> tuple[object, ...]:
    rows = oracle(case, user_id, at)
    if not rows:
        return (None,) * 5
    return (rows[-1].ds, micros(rows[-1].available_at), "v1", rows[-1].bill, rows[-1].search)


def expected_sequence(case: Case, user_id: str | None, at: datetime | None) -> tuple[object, ...]:
    rows = oracle(case, user_id, at, timedelta(days=case.sequence_days))
    if not rows:
        return (None,) * 4
    sequence = [(k.ds, source, codes) for k in rows for source, codes in (("bill", k.bill), ("search", k.search)) if codes is not None]
    return (rows[-1].ds, max(micros(k.available_at) for k in rows), "v1", sequence)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few users, days and moments, so that ties, repairs, midnights and equal times are the rule."""
    zone = draw(st.sampled_from(sorted(ZONES)))
    middle = ZONES[zone]
    users = draw(st.lists(st.sampled_from(ODD_KEYS), min_size=1, max_size=4, unique=True))
    days = st.integers(-3, 3).map(lambda n: middle + timedelta(days=n))
    midnights = days.map(lambda day: datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC))
    moments = st.builds(lambda start, shift: start + timedelta(microseconds=shift), midnights, st.sampled_from([-1, 0, 1, 3_600_000_000, 43_200_000_000]))
    codes = st.none() | st.lists(st.integers(0, 3), min_size=1, max_size=2)
    rows = st.builds(
        Known,
        user_id=st.sampled_from(users),
        ds=days,
        available_at=moments,
        bill=codes,
        search=codes,
        superseded_by=st.sampled_from([None, "r2", "r3"]),
    )
    known = draw(st.lists(rows, min_size=8, max_size=60, unique_by=lambda k: (k.user_id, k.ds, k.superseded_by)))
    labels = draw(st.lists(st.tuples(st.sampled_from([*users, None]), moments | st.none()), min_size=12, max_size=60))
    numbered = [(i, user, at) for i, (user, at) in enumerate(labels)]
    return Case(zone=zone, lag=draw(st.integers(1, 3)), sequence_days=draw(st.integers(1, 4)), known=known, labels=numbered)


@settings(max_examples=6, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_latest_and_sequence_equal_the_oracle(spark: SparkSession, case: Case) -> None:
    """Random labels and tokens in zones with odd midnights; every label once, and exactly what the definition says."""
    assert joined(spark, case, None) == {i: expected_latest(case, user, at) for i, user, at in case.labels}
    assert joined(spark, case, case.sequence_days) == {i: expected_sequence(case, user, at) for i, user, at in case.labels}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def row(user_id: str, ds: int, available_at: str, code: int, superseded_by: str | None = None) -> Known:
    return Known(user_id=user_id, ds=date(2026, 1, ds), available_at=utc(available_at), bill=[code], search=None, superseded_by=superseded_by)


def case_of(known: Sequence[Known], labels: Sequence[str], lag: int = 1) -> Case:
    return Case(zone="UTC", lag=lag, sequence_days=3, known=list(known), labels=[(i, "a", utc(at)) for i, at in enumerate(labels)])


def latest_codes(spark: SparkSession, case: Case) -> list[object]:
    found = joined(spark, case, None)
    return [found[i][3] for i in sorted(found)]


def test_a_late_repair_of_an_older_day_does_not_hide_a_newer_day(spark: SparkSession) -> None:
    """Day 1 is repaired after day 3 became available: the latest day is still day 3."""
    known = [row("a", 1, "2026-01-02 06:00", 1, "r2"), row("a", 1, "2026-01-05 12:00", 2), row("a", 3, "2026-01-04 06:00", 3)]
    labels = ["2026-01-02 05:59:59.999999", "2026-01-02 06:00", "2026-01-04 05:00", "2026-01-04 06:00", "2026-01-06 00:00"]
    assert latest_codes(spark, case_of(known, labels)) == [None, [1], [1], [3], [3]]


def test_the_row_that_was_known_counts_until_its_repair_is_available(spark: SparkSession) -> None:
    """Superseded before the repair, current from its very moment, and current on a tie."""
    repaired = [row("a", 1, "2026-01-02 06:00", 1, "r2"), row("a", 1, "2026-01-05 12:00", 2)]
    labels = ["2026-01-05 11:59:59.999999", "2026-01-05 12:00"]
    assert latest_codes(spark, case_of(repaired, labels)) == [[1], [2]]
    tied = [row("a", 1, "2026-01-02 06:00", 9, "r2"), row("a", 1, "2026-01-02 06:00", 2)]
    assert latest_codes(spark, case_of(tied, ["2026-01-02 06:00"])) == [[2]]


def test_tokens_of_the_labels_own_day_are_never_seen(spark: SparkSession) -> None:
    """Even when an early cutoff made them available before the label; a longer lag moves the bound."""
    known = [row("a", ds, "2026-01-01 00:00", ds) for ds in (1, 2, 3)]
    labels = ["2026-01-03 00:00", "2026-01-03 23:59:59.999999", "2026-01-04 00:00"]
    assert latest_codes(spark, case_of(known, labels)) == [[2], [2], [3]]
    assert latest_codes(spark, case_of(known, labels, lag=2)) == [[1], [1], [2]]


def test_future_dated_canaries_change_nothing(spark: SparkSession) -> None:
    """Rows of later days, and rows available later, leave every label's answer as it was."""
    known = [row("a", 1, "2026-01-02 06:00", 1), row("a", 2, "2026-01-03 06:00", 2)]
    labels = ["2026-01-02 12:00", "2026-01-04 00:00"]
    canaries = [row("a", 4, "2026-01-01 00:00", 666), row("a", 3, "2026-01-04 00:00:00.000001", 667), row("a", 2, "2026-01-09 00:00", 668, "r9")]
    for sequence_days in (None, 3):
        clean = joined(spark, case_of(known, labels), sequence_days)
        assert joined(spark, case_of([*known, *canaries], labels), sequence_days) == clean


def test_a_day_that_comes_twice_sees_nothing_of_itself(spark: SparkSession) -> None:
    """In St John's the clock went from 00:01 of 7 November 2010 back to 23:01 of the 6th: that label is of the 6th."""
    sixth = Known(user_id="a", ds=date(2010, 11, 6), available_at=utc("2010-11-01 00:00"), bill=[6], search=None)
    fifth = Known(user_id="a", ds=date(2010, 11, 5), available_at=utc("2010-11-01 00:00"), bill=[5], search=None)
    at = utc("2010-11-07 03:00")
    assert at.astimezone(ZoneInfo("America/St_Johns")).date() == date(2010, 11, 6)
    case = Case(zone="America/St_Johns", lag=1, sequence_days=3, known=[fifth, sixth], labels=[(0, "a", at)])
    assert latest_codes(spark, case) == [[5]]


def test_composite_keys_are_never_run_together(spark: SparkSession) -> None:
    """(1, 23) and (12, 3) make the same text when glued; here they are two keys."""
    tokens = spark.sql("""SELECT * FROM VALUES (1, 23, array(1S)), (12, 3, array(2S)) AS t(user, item, bill_codes)""").selectExpr(
        "*", "DATE'2026-01-01' AS ds", "'v1' AS tokenizer_version", "TIMESTAMP'2026-01-01 00:00:00' AS available_at"
    )
    labels = spark.sql("SELECT * FROM VALUES (1, 23), (12, 3), (12, NULL), (1, 3) AS t(user, item)").selectExpr("*", "DATE'2026-01-03' AS at")
    superseded = tokens.where("false").selectExpr("*", "'' AS superseded_by_run")
    df = join_tokens(labels, tokens, superseded, tokenizer_version="v1", keys=("user", "item"), at="at", time_zone="UTC")
    assert {(r["user"], r["item"]): r["bill_codes"] for r in df.collect()} == {(1, 23): [1], (12, 3): [2], (12, None): None, (1, 3): None}


def test_every_label_row_once_with_all_its_columns(spark: SparkSession) -> None:
    """Equal rows stay two rows; a column called ds, a dotted one, a map and a struct come through as they are."""
    query = "SELECT 'a' AS user_id, {} AS at, 'mine' AS ds, 1 AS `x.y`, map('k', 1) AS m, named_struct('s', 2) AS s FROM range(2)"
    tokens, superseded = frames(spark, case_of([row("a", 1, "2026-01-02 06:00", 7)], []))[1:]
    for sequence_days in (None, 2):
        labels = spark.sql(query.format("TIMESTAMP_NTZ'2026-01-03 00:00:00'"))
        df = join_tokens(labels, tokens, superseded, tokenizer_version="v1", at="at", time_zone="Asia/Shanghai", sequence_days=sequence_days)
        assert df.columns[:6] == labels.columns
        assert [tuple(r)[:6] for r in df.collect()] == [tuple(r) for r in labels.collect()]
        assert [r["token_ds"] for r in df.collect()] == [date(2026, 1, 1)] * 2


@pytest.mark.parametrize(
    ("literal", "seen"),
    [
        ("DATE'2026-01-02'", False),  # begins 2026-01-01T16:00Z, an hour before the row is available
        ("TIMESTAMP_NTZ'2026-01-02 00:59:59.999999'", False),
        ("TIMESTAMP_NTZ'2026-01-02 01:00:00'", True),
        ("TIMESTAMP'2026-01-01 17:00:00Z'", True),
    ],
)
def test_days_and_wall_clocks_are_the_catalogs_whatever_the_session_says(spark: SparkSession, literal: str, seen: bool) -> None:
    """The session's time zone is one that would give another answer."""
    tokens, superseded = frames(spark, case_of([row("a", 1, "2026-01-01 17:00", 7)], []))[1:]
    spark.conf.set("spark.sql.session.timeZone", "America/Los_Angeles")
    try:
        labels = spark.sql(f"SELECT 'a' AS user_id, {literal} AS at")
        df = join_tokens(labels, tokens, superseded, tokenizer_version="v1", at="at", time_zone="Asia/Shanghai")
        assert [r["bill_codes"] for r in df.collect()] == [[7] if seen else None]
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")


def test_tokens_of_another_version_are_not_mixed_in(spark: SparkSession) -> None:
    """Codes of two versions never compare, so the join takes one by name."""
    labels, tokens, superseded = frames(spark, case_of([row("a", 1, "2026-01-02 06:00", 7)], ["2026-01-03 00:00"]))
    df = join_tokens(labels, tokens, superseded, tokenizer_version="v2", at="at", time_zone="UTC")
    assert [r["bill_codes"] for r in df.collect()] == [None]


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ("SELECT 1 AS user_id, now() AS at", {}, "column user_id: found type int, expected string"),
        ("SELECT 'a' AS user_id, '2026' AS at", {}, "column at: found type string, expected TIMESTAMP"),
        ("SELECT 'a' AS user_id", {}, "column at found 0 times"),
        ("SELECT 'a' AS user_id, now() AS at, 1 AS Bill_Codes", {}, "bill_codes would occur twice"),
        ("SELECT 'a' AS user_id, now() AS at, 1 AS sequence", {"sequence_days": 2}, "sequence would occur twice"),
        ("SELECT 'a' AS user_id, now() AS at", {"sequence_days": 0}, "sequence_days 0: expected at least 1"),
        ("SELECT 'a' AS user_id, now() AS at", {"lag": timedelta(0)}, "lag 0:00:00: expected whole days"),
        ("SELECT 'a' AS user_id, now() AS at", {"lag": timedelta(hours=36)}, "expected whole days, at least 1d"),
        ("SELECT 'a' AS user_id, now() AS at", {"keys": ()}, "keys: found none"),
        ("SELECT 'a' AS user_id, 'b' AS item, now() AS at", {"keys": ("user_id", "item")}, "the tokens have no column item"),
    ],
)
def test_labels_that_can_not_be_joined_are_refused(spark: SparkSession, labels: str, arguments: dict[str, object], message: str) -> None:
    """Before any job runs, with the column, what it is and what was expected."""
    tokens, superseded = frames(spark, case_of([], []))[1:]
    with pytest.raises(BadInput, match=message):
        join_tokens(spark.sql(labels), tokens, superseded, **{"tokenizer_version": "v1", "at": "at", "time_zone": "UTC", **arguments})  # type: ignore[arg-type]


def filled(table: Table, rows: DataFrame) -> DataFrame:
    """`rows` with the table's other columns NULL, or zero where NULL is not allowed."""
    for field in table.fields:
        if field.name not in rows.columns:
            value = F.lit(None) if field.nullable else F.lit("0")
            rows = rows.withColumn(field.name, value.cast(field.type))
    return rows


Add = Callable[[str, DataFrame], int]


@pytest.fixture
def add(ready: Context) -> Add:
    """Appends rows to a table of the lakehouse, columns left out being NULL or zero."""
    from schemas.lakehouse import tables

    by_name = {table.name: table for table in tables(ready.catalog)}
    return lambda name, rows: ready.lake.append(name, filled(by_name[name], rows).coalesce(1), {})


@pytest.fixture
def lake(ready: Context, add: Add) -> Context:
    """User a on 2026-01-01, repaired by run r2 from the 5th on; tokenizer v1, trained through 2025-12-31, promoted."""
    spark = ready.spark
    registered = """SELECT 'v1' tokenizer_version, DATE'2025-12-01' trained_from, DATE'2025-12-31' trained_through, '{"sources": []}' layout"""
    add("tokenizers", spark.sql(registered))
    add("promotions", spark.sql("SELECT 1L seq, 'v1' tokenizer_version"))
    current = [row("a", 1, "2026-01-05 00:00", 2).row()]
    add("user_tokens", spark.createDataFrame(current, TOKEN_TYPE).withColumn("run_id", F.lit("r2")))
    replaced = [row("a", 1, "2026-01-02 00:00", 1, "r2").row(), row("a", 2, "2026-01-03 00:00", 9, "never").row()]
    add("user_tokens_superseded", spark.createDataFrame(replaced, SUPERSEDED_TYPE))
    return ready


def ledger_row(context: Context, add: Add, run_id: str, day: int, status: str = "done") -> None:
    query = """
        SELECT 'publish_tokens' stage, '{run_id}' run_id, DATE'{ds}' ds_from, DATE'{ds}' ds_to, '{status}' status, map('x', 1L) rows,
               map('x', 1L) tables_read, map('x', 1L) tables_written, 0D seconds, now() started_at
    """
    add("runs", context.spark.sql(query.format(run_id=run_id, ds=date(2026, 1, day), status=status)))


def labels_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


CSV = "user_id,when,target\nb,2026-01-06T00:00:00Z,1\na,2026-01-06 08:00,0\na,2026-01-04T08:00:00+08:00,\na,,1\n"


def test_the_command_writes_every_label_in_the_order_of_its_keys(lake: Context, tmp_path: Path) -> None:
    """CSV in, Parquet out: offsets are honoured, wall clocks are the catalog's; a label without a time has no tokens."""
    out = str(tmp_path / "joined")
    done = join_labels.run(lake, labels_file(tmp_path, CSV), at="when", out=out)
    assert (done.labels, done.with_tokens) == (4, 2)
    assert str(done).endswith("4 labels, 2 of them with tokens of tokenizer v1")
    found = lake.spark.read.parquet(out).selectExpr("user_id", "unix_seconds(when)", "target", "bill_codes").collect()
    assert [tuple(r) for r in found] == [
        ("a", None, "1", None),
        ("a", int(utc("2026-01-04 00:00").timestamp()), None, [1]),
        ("a", int(utc("2026-01-06 00:00").timestamp()), "0", [2]),
        ("b", int(utc("2026-01-06 00:00").timestamp()), "1", None),
    ]
    ledger = lake.lake.read("runs").first()
    assert ledger is not None
    assert (ledger["stage"], ledger["status"], ledger["rows"]) == ("join_labels", "done", {"labels": 4, "with_tokens": 2})


def test_the_command_writes_sequences(lake: Context, tmp_path: Path) -> None:
    """One array per label."""
    out = str(tmp_path / "joined")
    join_labels.run(lake, labels_file(tmp_path, "user_id,when\na,2026-01-06\n"), at="when", out=out, sequence_days=5)
    found = lake.spark.read.parquet(out).first()
    assert found is not None
    assert [tuple(s) for s in found["sequence"]] == [(date(2026, 1, 1), "bill", [2])]


def test_labels_may_be_parquet_or_a_table(lake: Context, tmp_path: Path) -> None:
    """The same labels three ways give the same rows."""
    frame = lake.spark.sql("SELECT 'a' AS user_id, TIMESTAMP'2026-01-04 00:00:00' AS when")
    frame.write.parquet(str(tmp_path / "labels"))
    frame.createOrReplaceTempView("my_labels")
    for i, labels in enumerate((str(tmp_path / "labels"), "my_labels")):
        join_labels.run(lake, labels, at="when", out=str(tmp_path / f"out{i}"))
        assert [r["bill_codes"] for r in lake.spark.read.parquet(str(tmp_path / f"out{i}")).collect()] == [[1]]


def published(context: Context) -> set[tuple[int, str]]:
    tables = (context.lake.read(name) for name in ("user_tokens_superseded", "user_tokens", "runs"))
    return {(r["ds"].day, r["superseded_by_run"]) for r in join_labels.published_repairs(*tables).collect()}


def test_superseded_rows_count_only_when_their_repair_was_published(lake: Context, add: Add) -> None:
    """By the ledger's word for that day, or by the rows it left; a refused or other day's publication is none."""
    assert published(lake) == {(1, "r2")}
    ledger_row(lake, add, "never", 2, "refused")
    ledger_row(lake, add, "never", 3)
    assert published(lake) == {(1, "r2")}
    ledger_row(lake, add, "never", 2)
    assert published(lake) == {(1, "r2"), (2, "never")}


def test_labels_of_days_the_tokenizer_was_trained_on_are_refused(lake: Context, tmp_path: Path) -> None:
    """The day is the catalog's: 16:00 UTC of the 31st is the 1st in Shanghai, an instant earlier is not."""
    path = labels_file(tmp_path, "user_id,when\na,2025-12-31T15:59:59Z\na,2025-12-31T16:00:00Z\na,2025-12-30T00:00:00Z\n")
    with pytest.raises(BadInput, match=r"2 labels \(the first of 2025-12-30\) are not after 2025-12-31.*tokenizer v1.*--allow-trained-after"):
        join_labels.run(lake, path, at="when", out=str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()
    assert join_labels.run(lake, path, at="when", out=str(tmp_path / "yes"), allow_trained_after=True).labels == 3


def test_an_existing_output_is_left_alone(lake: Context, tmp_path: Path) -> None:
    """Nothing is written over."""
    (tmp_path / "joined").mkdir()
    with pytest.raises(BadInput, match=r"--out .*joined: .*expected a folder that does not exist yet"):
        join_labels.run(lake, labels_file(tmp_path, CSV), at="when", out=str(tmp_path / "joined"))
    assert list((tmp_path / "joined").iterdir()) == []


def test_label_files_that_can_not_be_read_say_why(lake: Context, tmp_path: Path) -> None:
    """Missing, no Parquet, nanoseconds, a text that is no time, a ragged row."""
    foreign = tmp_path / "foreign.parquet"
    foreign.write_text("not parquet at all")
    nanoseconds = tmp_path / "nano.parquet"
    pd.DataFrame({"user_id": ["a"], "when": pd.to_datetime(["2026-01-04"])}).to_parquet(nanoseconds, coerce_timestamps=None, version="2.6")
    wrong = labels_file(tmp_path, "user_id,when\na,yesterday\n")
    half = tmp_path / "half"
    half.mkdir()
    pd.DataFrame({"user_id": ["a"], "when": pd.to_datetime(["2026-01-04"])}).to_parquet(half / "a.parquet", coerce_timestamps="us")
    (half / "b.parquet").write_bytes((half / "a.parquet").read_bytes()[:-9])
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("user_id,when\na,2026-01-04,3,4\n")
    expected = {
        str(tmp_path / "nowhere"): "PATH_NOT_FOUND",
        "no_such_table": "PATH_NOT_FOUND",
        str(foreign): "can't be read",
        str(nanoseconds): "coerce_timestamps",
        wrong: "column when: 1 of 1 values are no time, expected ISO 8601",
        str(half): "labels .*half.*can't be read",
        str(ragged): "labels .*ragged.csv",
    }
    for labels, message in expected.items():
        with pytest.raises(BadInput, match=message) as caught:
            join_labels.run(lake, labels, at="when", out=str(tmp_path / "out"))
        assert "yesterday" not in str(caught.value), "the ledger keeps the message, and a wrong column may be the users' ids"
    headless = labels_file(tmp_path, "canary,2026-01-04\ncanary,2026-01-05\n")
    with pytest.raises(BadInput, match=r"labels: column user_id found 0 times, .*\(is the header line missing") as caught:
        join_labels.run(lake, headless, at="when", out=str(tmp_path / "out"))
    assert "canary" not in str(caught.value)


def test_a_machine_that_can_t_read_labels_is_not_their_fault(lake: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another try may end otherwise."""

    def failing(*_: object) -> None:
        raise PySparkException("java.lang.OutOfMemoryError: Java heap space")

    monkeypatch.setattr(label_input, "_typed", failing)
    with pytest.raises(Infrastructure, match="Java's heap is full"):
        join_labels.run(lake, labels_file(tmp_path, CSV), at="when", out=str(tmp_path / "out"))


def test_labels_that_fail_past_their_first_read_are_named(lake: Context, tmp_path: Path) -> None:
    """A footer that is whole over pages that are not; a row without exactly the header's columns."""
    rotten = tmp_path / "rotten.parquet"
    pd.DataFrame({"user_id": ["a"], "when": pd.to_datetime(["2026-01-04"])}).to_parquet(rotten, coerce_timestamps="us")
    whole = rotten.read_bytes()
    rotten.write_bytes(whole[:4] + bytes(range(40, 64)) + whole[28:])
    with pytest.raises(BadInput, match=r"labels .*rotten\.parquet: a file can't be read, damaged or gone"):
        join_labels.run(lake, str(rotten), at="when", out=str(tmp_path / "out"))
    ragged = labels_file(tmp_path, "user_id,when\na,2026-01-04,3,4\n")
    rows = lake.spark.read.options(header="true", mode="FAILFAST").csv(ragged)
    with pytest.raises(BadInput, match=r"labels .*: found a row without exactly the header's columns"), naming_labels(lake, ragged):
        rows.collect()


def test_the_tokenizer_must_be_known(lake: Context, ready: Context, tmp_path: Path) -> None:
    """An unregistered version is answered with the registered ones."""
    with pytest.raises(BadInput, match=r"tokenizer v9: not registered, registered are: v1"):
        join_labels.run(lake, labels_file(tmp_path, CSV), at="when", out=str(tmp_path / "out"), tokenizer_version="v9")


def test_without_a_promotion_a_version_must_be_named(ready: Context, tmp_path: Path) -> None:
    """The message names both ways out."""
    with pytest.raises(BadInput, match="none is promoted, registered are: none; run `u2qt tokenizer promote V`"):
        join_labels.run(ready, labels_file(tmp_path, CSV), at="when", out=str(tmp_path / "out"))
