"""Features from literal clean rows of the default catalog."""

from datetime import UTC, date, datetime

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructField, StructType

from jobs import build_user_features
from jobs.context import Context
from jobs.day_states import null_safe_hash
from jobs.errors import BadInput, GateRefused
from jobs.feature_columns import slice_text
from schemas.keys import Days, moment
from schemas.source_events import source_table_name

DAY = date(2026, 3, 1)
NOON, NIGHT = datetime(2026, 3, 1, 4, 0, tzinfo=UTC), datetime(2026, 3, 1, 16, 30, tzinfo=UTC)  # noon in Shanghai; half an hour after its day
LATE = datetime(2026, 3, 2, 20, 0, tzinfo=UTC)


def append(context: Context, source: str, *rows: dict[str, object]) -> None:
    table = source_table_name(source)
    names = [name for name in context.lake.read(table).columns if name != "row_hash"]
    schema = context.lake.read(table).select(names).schema
    common = {"event_time": NOON, "available_time": NIGHT, "delivery_id": f"{source}-d", "delivered_ds": DAY, "ds": DAY, "run_id": "r"}
    values = [[{**common, **row}.get(name) for name in schema.names] for row in rows]
    context.lake.append(table, context.spark.createDataFrame(values, schema).withColumn("row_hash", null_safe_hash(names)), {})


def bill(user: str, number: str, **change: object) -> dict[str, object]:
    row = {"user_id": user, "bill_id": number, "product": "noodles", "category": "food", "amount": 1500, "currency": "CNY"}
    return {**row, "channel": "balance", "counterparty_type": "merchant", "status": "paid", **change}


def passed(context: Context, gate: str = "passed", without: str = "") -> None:
    rows = [(s.name, DAY, f"{s.name}-d", 1, 1, 0, 0, gate, "r", None, None) for s in context.catalog.sources if s.name != without]
    context.lake.append("deliveries", context.spark.createDataFrame(rows, context.lake.read("deliveries").schema), {})


def built(context: Context, cutoff: str | None = None) -> dict[str, Row]:
    passed(context)
    build_user_features.run(context, Days(DAY, DAY), moment(cutoff) if cutoff else None)
    return {row.user_id.decode(): row for row in context.lake.read("user_features").collect()}


def test_a_slice_s_text_groups_events_with_counts_most_frequent_first(ready: Context) -> None:
    """Two equal bills and one other make two parts; an absent source is empty."""
    append(ready, "bill", bill("u", "1", product="tea"), bill("u", "2"), bill("u", "3"))
    row = built(ready)["u"]
    line = "noodles (food) via balance to merchant, paid, e10 CNY"
    assert row.bill_text.decode() == f"{line} x2; {line.replace('noodles', 'tea')}"
    assert (row.bill_count, row.app_count, bytes(row.app_text)) == (3, 0, b"")


def test_arrays_have_fixed_lengths_latest_events_and_padding(ready: Context) -> None:
    """Twenty events leave the latest sixteen, in order of time; one event leaves padding."""
    many = [bill("many", str(n), amount=n, event_time=NOON.replace(minute=n)) for n in range(20)]
    append(ready, "bill", *many, bill("one", "x", counterparty_type=None))
    rows = built(ready)
    values = rows["many"].bill_event_values
    assert (rows["many"].bill_count, sum(rows["many"].bill_mask), len(values)) == (20, 16, 16 * 3)
    assert values[0::3] == [float(n) for n in range(4, 20)]
    assert values[1] == pytest.approx((12 * 60 + 4) / 1440)
    ids = rows["one"].bill_event_ids
    assert (len(ids), rows["one"].bill_mask) == (16 * 6, [1] + [0] * 15)
    assert ids[4] == 0, "a null field has no id"
    assert all(i > 0 for i in (*ids[:4], ids[5]))
    assert set(ids[6:]) == {0}


def test_only_rows_known_at_the_cutoff_count(ready: Context) -> None:
    """A row delivered a day late is not there by default, and is with a later cutoff."""
    append(ready, "bill", bill("u", "1"), bill("u", "2", available_time=LATE), bill("late", "3", available_time=LATE))
    assert {u: r.bill_count for u, r in built(ready).items()} == {"u": 1}
    later = built(ready, "2026-03-03T12:00:00+08:00")
    assert {u: r.bill_count for u, r in later.items()} == {"u": 2, "late": 1}
    assert later["u"].available_at == datetime(2026, 3, 3, 4, 0)


def test_of_conflicting_deliveries_the_latest_available_wins(ready: Context) -> None:
    """One bill told twice is one event, and the ledger counts the other."""
    append(ready, "bill", bill("u", "1", status="failed"), bill("u", "1", available_time=NIGHT.replace(minute=45)))
    row = built(ready)["u"]
    assert (row.bill_count, b"paid" in row.bill_text) == (1, True)
    rows = ready.lake.read("runs").collect()[0].rows
    assert (rows["bill.available"], rows["bill.events"], rows["bill.superseded"]) == (2, 1, 1)


def test_the_profile_is_the_latest_valid_and_known_row(ready: Context) -> None:
    """Not one of tomorrow, not one delivered after the cutoff, not one past its lookback; a profile alone makes no row."""

    def profile(user: str, age: str, day: int, month: int = 3, **change: object) -> dict[str, object]:
        valid = date(2026, month, day)
        start = datetime(2026, month, day, tzinfo=UTC)
        return {"user_id": user, "age_band": age, "tenure_days": day, "event_time": start, "ds": valid, "available_time": start, **change}

    append(ready, "bill", bill("u", "1"), bill("old", "2"))
    append(ready, "profile", profile("u", "18-24", 20, 2), profile("u", "25-34", 1), profile("u", "35-44", 2))
    append(ready, "profile", profile("u", "45-54", 1, available_time=LATE), profile("old", "55+", 15, 1), profile("idle", "55+", 1))
    rows = built(ready)
    assert set(rows) == {"u", "old"}
    assert (rows["u"].profile_count, rows["u"].profile_values) == (1, [1.0, 0.0, 0.0, 0.0, 0.0])
    assert (rows["old"].profile_count, rows["old"].profile_ids) == (0, [0, 0, 0])


def test_of_profiles_that_differ_in_where_they_are_null_one_is_chosen_whatever_their_order(ready: Context) -> None:
    """A hash that skips nulls can't tell them apart."""
    source = ready.catalog.profile
    assert source is not None
    start = datetime(2026, 3, 1, tzinfo=UTC)
    common = {"user_id": "u", "event_time": start, "available_time": start, "ds": DAY}
    schema = ready.lake.read("source_profile").schema
    two = [[{**common, **fields}.get(name) for name in schema.names] for fields in ({"age_band": "x"}, {"city_tier": "x"})]
    active = ready.spark.createDataFrame([("u", DAY)], "user_id string, ds date")
    nullable = StructType([StructField(field.name, field.dataType) for field in schema])
    chosen = []
    for ordered in (two, two[::-1]):
        rows = ready.spark.createDataFrame(ordered, nullable).coalesce(1)
        (row,) = build_user_features.profiles_at(rows, active, source, ready.catalog, F.lit(LATE)).collect()
        chosen.append(row.profile_row)
    assert chosen[0] == chosen[1]


def test_a_slice_of_empty_text_is_no_absent_one(spark: SparkSession) -> None:
    """A template of one column, and its value is the empty text."""
    texts = spark.createDataFrame([([(-1, "")],), ([(-2, "")],), ([],)], "texts array<struct<order: int, text: string>>")
    found = [bytes(row.text) for row in texts.select(slice_text(F.col("texts"), 100).alias("text")).collect()]
    assert found == [b"?", b" x2", b""]


def test_user_ids_of_any_script_come_back_byte_equal(ready: Context) -> None:
    """Also one that ends in a space, and ids that differ in case or normalisation alone."""
    users = ["é", "e\u0301", "U", "u", "用户 🍺 ", "'; DROP TABLE x; --"]
    append(ready, "bill", *(bill(user, str(n)) for n, user in enumerate(users)))
    assert set(built(ready)) == set(users)


def test_the_hash_follows_content_only(ready: Context) -> None:
    """A second build with a later cutoff gives the same hashes; another amount another one."""
    append(ready, "bill", bill("u", "1"), bill("v", "2"))
    before = {u: r.row_hash for u, r in built(ready).items()}
    append(ready, "bill", bill("v", "2", amount=99, available_time=LATE))
    after = {u: r.row_hash for u, r in built(ready, "2026-03-03T12:00:00+08:00").items()}
    assert before["u"] == after["u"]
    assert before["v"] != after["v"]


def test_a_slice_text_is_cut_at_its_stated_length_between_characters(ready: Context) -> None:
    """2,000 characters, not bytes."""
    append(ready, "bill", *(bill("u", str(n), product=f"🍺{n}" + "长" * 100) for n in range(30)))
    assert len(bytes(built(ready)["u"].bill_text).decode()) == 2000


@pytest.mark.parametrize(("gate", "without", "error"), [("passed", "app", BadInput), ("blocked", "", GateRefused)])
def test_a_source_that_is_not_validated_or_blocked_stops_the_build(ready: Context, gate: str, without: str, error: type[Exception]) -> None:
    """The message has the command that helps; nothing is written."""
    append(ready, "bill", bill("u", "1"))
    passed(ready, gate, without)
    with pytest.raises(error, match="u2qt validate --ds 2026-03-01"):
        build_user_features.run(ready, Days(DAY, DAY))
    assert ready.lake.version("user_features") == 0
