"""A source changes under us: ignored and noted, quarantined, or stopped, as the table in docs/operations.md says."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import Row, SparkSession

from jobs import build_user_features, init_lakehouse, raw_input, replay_quarantine, validate_sources
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.errors import BadInput, GateRefused, Infrastructure
from jobs.ledger_rows import column_lines
from jobs.raw_input import last_delivered
from schemas.catalog import Catalog, CatalogHeader, Source
from schemas.catalog_files import load_catalog
from schemas.keys import Days

DAY = Days(date(2026, 3, 1), date(2026, 3, 1))
NEXT = Days(date(2026, 3, 2), date(2026, 3, 2))
RULE = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1, "max_value": 1000}}
COLUMNS = [
    {"name": "visit", "type": "string", "comment": "Visit number.", "nullable": False},
    {"name": "page", "type": "string", "role": "categorical", "comment": "Page.", "nullable": False},
    {"name": "stay", "type": "bigint", "role": "numeric", "comment": "Time on the page.", "unit": "seconds"},
]


def visits(format: str) -> Catalog:
    """One source, one folder a day."""
    declared = {
        "name": "visits",
        "kind": "events",
        "description": "Visits.",
        "entity_key": {"from": "user"},
        "event_time": {"from": "seen_at"},
        "dedup_key": ["visit"],
        "template": "{page} {stay:log2} s",
        "input": {"format": format, "path": "visits/{ds}"},
        "columns": COLUMNS,
    }
    header = CatalogHeader(name="shop", description="Shop.", time_zone="UTC", delivery_lag="3h", sources=("visits",))
    suites = {"visits": json.dumps({"name": "visits", "expectations": [RULE]})}
    return Catalog(header=header, sources=(Source.model_validate(declared),), suites=suites, drift=load_catalog().drift, location="test")


@pytest.fixture(scope="module")
def empty_shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shop") / "lake"
    init_lakehouse.run(Context(spark=spark, lake=Lakehouse(spark, str(root)), catalog=visits("csv"), input_root="", run_id="init"))
    return root


@pytest.fixture
def shop(spark: SparkSession, empty_shop: Path, tmp_path: Path) -> Context:
    shutil.copytree(empty_shop, tmp_path / "lake")
    return Context(spark=spark, lake=Lakehouse(spark, str(tmp_path / "lake")), catalog=visits("csv"), input_root=str(tmp_path), run_id="r")


def rows(n: int = 4, **more: object) -> list[dict[str, object]]:
    return [{"visit": f"v{i}", "user": f"u{i}", "seen_at": f"2026-03-01T10:00:0{i}Z", "page": "home", "stay": 7 + i, **more} for i in range(n)]


def renamed(delivered: list[dict[str, object]], old: str, new: str) -> list[dict[str, object]]:
    return [{new if name == old else name: value for name, value in row.items()} for row in delivered]


def without(delivered: list[dict[str, object]], name: str) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key != name} for row in delivered]


def deliver(context: Context, format: str, delivered: list[dict[str, object]], day: Days = DAY) -> Context:
    """The rows as one file of that day; an earlier delivery of the day goes."""
    folder = Path(context.input_root) / "visits" / str(day.first)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if format == "parquet":
        pq.write_table(pa.Table.from_pylist(delivered), folder / "part-0.parquet")
    elif format == "json":
        (folder / "part-0.json").write_text("".join(json.dumps(row) + "\n" for row in delivered))
    else:
        lines = [",".join(delivered[0]), *(",".join(str(value) for value in row.values()) for row in delivered)]
        (folder / "part-0.csv").write_text("\n".join(lines) + "\n")
    return replace(context, catalog=visits(format))


def outcomes(context: Context, day: Days = DAY) -> tuple[Row, tuple[str, ...]]:
    """The day's delivery and what its validation noted of columns."""
    (delivery,) = context.lake.read("deliveries").where(f"delivered_ds = '{day.first}'").collect()
    detail = context.lake.read("runs").where("stage = 'validate_sources'").orderBy("started_at").tail(1)[0].detail
    return delivery, column_lines(detail)


def reasons(context: Context) -> Mapping[str, int]:
    found = context.lake.read("quarantine_visits").selectExpr("explode(reasons) reason").groupBy("reason").count().collect()
    return {row["reason"]: row["count"] for row in found}


def test_a_column_gained_is_ignored_and_noted(shop: Context) -> None:
    """Nothing of it reaches the clean rows; its name stands in the ledger."""
    context = deliver(shop, "csv", [{"coupon": "spring", **row} for row in rows()])
    validate_sources.run(context, DAY)
    delivery, noted = outcomes(context)
    assert (delivery.clean, noted) == (4, ("visits, undeclared columns coupon",))
    assert "coupon" not in context.lake.read("source_visits").columns


@pytest.mark.parametrize(
    ("format", "delivered", "said"),
    [
        ("csv", without(rows(), "stay"), "no column stay, found visit, user, seen_at, page"),
        ("parquet", renamed(rows(), "page", "page_name"), "no column page, found visit, user, seen_at, page_name, stay"),
        ("json", without(rows(), "page"), "no column page"),
        ("parquet", rows(page={"id": 3}), r"column page \(struct\) has nested values"),
        ("json", rows(stay=[1, 2]), r"column stay \(array\) has nested values"),
    ],
)
def test_a_column_lost_renamed_or_nested_stops_the_day(shop: Context, format: str, delivered: list[dict[str, object]], said: str) -> None:
    """The declaration's author decides what it became; nothing is written."""
    context = deliver(shop, format, delivered)
    with pytest.raises(BadInput, match=said):
        validate_sources.run(context, DAY)
    assert context.lake.read("deliveries").isEmpty()


def test_a_file_without_its_header_puts_no_row_into_the_ledger(shop: Context) -> None:
    """Its first row stands where names do."""
    context = deliver(shop, "csv", rows())
    file = Path(shop.input_root) / "visits" / str(DAY.first) / "part-0.csv"
    file.write_text("\n".join(file.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(BadInput, match=r"no column user, .*, found 5 columns, none of them expected \(is the header line missing\?\)") as caught:
        validate_sources.run(context, DAY)
    details = [row.detail for row in context.lake.read("runs").collect()]
    assert all("u0" not in text for text in (str(caught.value), *details))


@pytest.mark.parametrize("lacking", ["part-0.parquet", "part-1.parquet"])
@pytest.mark.parametrize("name", ["stay", "page"])
def test_a_column_lost_in_some_files_of_a_day_stops_it(shop: Context, lacking: str, name: str) -> None:
    """Whichever file Spark takes the columns from, and whether the column may be null or not."""
    context = deliver(shop, "parquet", rows())
    folder = Path(shop.input_root) / "visits" / str(DAY.first)
    other = "part-1.parquet" if lacking == "part-0.parquet" else "part-0.parquet"
    pq.write_table(pa.Table.from_pylist(rows()), folder / other)
    pq.write_table(pa.Table.from_pylist(renamed(rows(), name, f"{name}_s")), folder / lacking)
    with pytest.raises(BadInput, match=rf"{lacking}: no column {name}, which other files of this input have \(1 of 2 lack it\)"):
        validate_sources.run(context, DAY)
    assert context.lake.read("deliveries").isEmpty()


def test_a_column_gained_in_some_files_of_a_day_is_noted(shop: Context) -> None:
    """And kept with the quarantined rows that have it, as where all files have it."""
    context = deliver(shop, "parquet", rows())
    more = [{**row, "visit": f"w{i}", "user": "" if i == 0 else "u", "coupon": "spring"} for i, row in enumerate(rows())]
    pq.write_table(pa.Table.from_pylist(more), Path(shop.input_root) / "visits" / str(DAY.first) / "part-1.parquet")
    validate_sources.run(context, DAY)
    delivery, noted = outcomes(context)
    assert (delivery.clean, delivery.quarantined, noted) == (7, 1, ("visits, undeclared columns coupon",))
    assert [row.raw["coupon"] for row in context.lake.read("quarantine_visits").collect()] == ["spring"]


def test_files_of_a_day_that_need_no_judging_are_read(shop: Context) -> None:
    """An empty file has no columns to lack; a declared `mergeSchema` says that files may differ."""
    context = deliver(shop, "parquet", rows())
    folder = Path(shop.input_root) / "visits" / str(DAY.first)
    (folder / "part-1.parquet").write_bytes(b"")
    validate_sources.run(context, DAY)
    assert outcomes(context)[0].clean == 4
    pq.write_table(pa.Table.from_pylist([row | {"visit": f"w{row['visit']}"} for row in without(rows(), "stay")]), folder / "part-1.parquet")
    (source,) = context.catalog.sources
    declared = source.model_copy(update={"input": source.input.model_copy(update={"options": {"mergeSchema": "true"}})})
    validate_sources.run(replace(context, catalog=context.catalog.model_copy(update={"sources": (declared,)})), DAY)
    assert outcomes(context)[0].clean == 8
    assert context.lake.read("source_visits").where("stay IS NULL").count() == 4


def test_a_column_gained_beside_types_that_spark_merges_into_no_schema_is_noted(shop: Context) -> None:
    """The rows are read all the same: a narrower number is widened while it is read."""
    context = deliver(shop, "parquet", rows())
    more = pa.Table.from_pylist([{**row, "visit": f"w{i}", "coupon": "spring"} for i, row in enumerate(rows())])
    narrow = more.set_column(more.schema.get_field_index("stay"), "stay", more["stay"].cast(pa.int32()))
    pq.write_table(narrow, Path(shop.input_root) / "visits" / str(DAY.first) / "part-1.parquet")
    validate_sources.run(context, DAY)
    delivery, noted = outcomes(context)
    assert (delivery.clean, noted) == (8, ("visits, undeclared columns coupon",))


def test_a_machine_that_can_t_read_footers_is_no_fault_of_the_input(shop: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner is not asked to deliver again."""
    context = deliver(shop, "parquet", rows())
    folder = Path(shop.input_root) / "visits" / str(DAY.first)
    shutil.copy(folder / "part-0.parquet", folder / "part-1.parquet")

    def failing(*_: object) -> None:
        raise PySparkException("java.io.FileNotFoundException: part-1.parquet (Too many open files)")

    monkeypatch.setattr(raw_input, "_footer_columns", failing)
    with pytest.raises(Infrastructure, match="too many open files"):
        validate_sources.run(context, DAY)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([*COLUMNS, {"name": "coupon", "type": "string", "comment": "Coupon."}], r"found no further column, expected column coupon string as catalog shop"),
        (COLUMNS[:2], r"found column stay bigint, expected no further column"),
        ([*COLUMNS[:2], COLUMNS[2] | {"type": "double"}], r"found column stay bigint, expected column stay double"),
    ],
)
def test_a_catalog_with_other_columns_is_refused_before_anything_is_written(shop: Context, columns: list[dict[str, object]], said: str) -> None:
    """A lakehouse's columns are those of the catalog that it was made with; a validated day stays validated."""
    context = deliver(shop, "csv", [row | {"coupon": "spring"} for row in rows()])
    validate_sources.run(context, DAY)
    (source,) = context.catalog.sources
    other = Source.model_validate(source.model_dump(by_alias=True) | {"columns": columns, "template": "{page}"})
    changed = replace(context, catalog=context.catalog.model_copy(update={"sources": (other,)}), run_id="changed")
    for refused in (
        lambda: validate_sources.run(changed, DAY),
        lambda: build_user_features.run(changed, DAY),
        lambda: replay_quarantine.run(changed, "visits-2026-03-01"),
        lambda: init_lakehouse.run(changed),
    ):
        with pytest.raises(BadInput, match=said):
            refused()
    assert outcomes(context)[0].gate == "passed"


def test_a_field_renamed_in_case_alone_stops_the_day(shop: Context) -> None:
    """Spark can't tell the two apart."""
    context = deliver(shop, "json", renamed(rows(), "stay", "Stay"))
    with pytest.raises(BadInput, match="no column stay, found Stay, page"):
        validate_sources.run(context, DAY)


def test_a_nullable_json_field_in_no_row_is_null_and_noted(shop: Context) -> None:
    """JSON has no header: a field without values is in no file. Renamed, both names are noted."""
    context = deliver(shop, "json", renamed(rows(), "stay", "duration"))
    validate_sources.run(context, DAY)
    delivery, noted = outcomes(context)
    assert (delivery.clean, set(noted)) == (4, {"visits, undeclared columns duration", "visits, absent columns stay"})
    assert context.lake.read("source_visits").where("stay IS NOT NULL").isEmpty()


def test_another_type_is_read_where_its_values_are_and_quarantined_where_not(shop: Context) -> None:
    """Numbers as text are numbers; words are not, and a day of nothing else is blocked."""
    context = deliver(shop, "parquet", [row | {"stay": str(row["stay"])} for row in rows()])
    validate_sources.run(context, DAY)
    assert outcomes(context)[0].clean == 4
    context = deliver(shop, "parquet", [row | {"stay": "7 s"} for row in rows(3)])
    with pytest.raises(GateRefused, match="expect_table_row_count_to_be_between failed"):
        validate_sources.run(context, DAY)
    delivery, _ = outcomes(context)
    assert (delivery.clean, delivery.quarantined, delivery.gate, reasons(context)) == (0, 3, "blocked", {"type:stay": 3})


def test_a_day_is_judged_by_itself_whatever_days_are_validated_with_it(shop: Context) -> None:
    """A day of refused rows beside a good one is blocked, though the two together hold every expectation; the good one passes."""
    deliver(shop, "parquet", [row | {"stay": "7 s"} for row in rows(3)])
    good = [row | {"seen_at": "2026-03-02T10:00:00Z", "stay": "7"} for row in rows()]
    context, both = deliver(shop, "parquet", good, NEXT), Days(DAY.first, NEXT.first)
    with pytest.raises(GateRefused, match="source visits, 2026-03-01: expect_table_row_count_to_be_between failed") as refused:
        validate_sources.run(context, both)
    assert "2026-03-02" not in str(refused.value)
    assert (outcomes(context)[0].gate, outcomes(context, NEXT)[0].gate) == ("blocked", "passed")
    with pytest.raises(GateRefused, match="blocked"):
        build_user_features.run(context, DAY)
    build_user_features.run(context, NEXT)
    assert context.lake.read("user_features").count() == 4


def bounded(context: Context, most: int, least_rows: int = 1) -> Context:
    """The catalog with another bound of `stay` and another row minimum."""
    (source,) = context.catalog.sources
    columns = tuple(column.model_copy(update={"max": most}) if column.name == "stay" else column for column in source.columns)
    sources = (source.model_copy(update={"columns": columns, "min_rows_per_day": least_rows}),)
    return replace(context, catalog=context.catalog.model_copy(update={"sources": sources}))


@pytest.fixture
def refused(shop: Context) -> Context:
    """Four rows of a day, two of them quarantined for a bound that was too low."""
    context = deliver(shop, "parquet", rows())
    validate_sources.run(bounded(context, 8), DAY)
    assert reasons(context) == {"range:stay": 2}
    return context


def test_a_replay_releases_what_a_mended_declaration_lets_through(refused: Context) -> None:
    """Each row once, also when it is called again; the outcomes add up."""
    totals = [replay_quarantine.run(bounded(refused, most), "visits-2026-03-01") for most in (9, 9, 10)]
    assert totals == [{"released": 1, "refused": 1}, {"released": 0, "refused": 1}, {"released": 1, "refused": 0}]
    delivery, _ = outcomes(refused)
    assert (delivery.rows_in, delivery.clean, delivery.quarantined, delivery.duplicates, delivery.gate) == (4, 4, 0, 0, "passed")
    assert sorted(row.visit for row in refused.lake.read("source_visits").collect()) == ["v0", "v1", "v2", "v3"]


def test_a_replay_judges_the_day_as_a_validation_does(refused: Context) -> None:
    """Rows that are let through don't make up for rows that never came."""
    with pytest.raises(GateRefused, match="4 rows delivered, expected at least 5"):
        replay_quarantine.run(bounded(refused, 100, least_rows=5), "visits-2026-03-01")
    assert outcomes(refused)[0].gate == "blocked"


def from_column(context: Context, column: str, format: str) -> Context:
    """The catalog with `stay` read from another raw column."""
    (source,) = visits(format).sources
    columns = tuple(c.model_copy(update={"raw_name": column}) if c.name == "stay" else c for c in source.columns)
    return replace(context, catalog=context.catalog.model_copy(update={"sources": (source.model_copy(update={"columns": columns}),)}))


def test_a_replay_knows_columns_that_came_after_the_rows(shop: Context) -> None:
    """A JSON field that may be absent is null in them; a column of another format is missing, which is said."""
    context = deliver(shop, "json", rows())
    validate_sources.run(bounded(context, 8), DAY)
    assert replay_quarantine.run(from_column(context, "stay_s", "json"), "visits-2026-03-01") == {"released": 2, "refused": 0}
    assert {row.visit: row.stay for row in context.lake.read("source_visits").collect()} == {"v0": 7, "v1": 8, "v2": None, "v3": None}
    other = deliver(shop, "parquet", rows(), NEXT)
    with pytest.raises(GateRefused):
        validate_sources.run(bounded(other, 0), NEXT)
    with pytest.raises(BadInput, match="its quarantined rows have no column stay_s, found page, seen_at, stay, user, visit"):
        replay_quarantine.run(from_column(other, "stay_s", "parquet"), "visits-2026-03-02")


def test_quarantined_rows_have_their_own_day_s_columns_whatever_is_read_beside_it(shop: Context) -> None:
    """A column that a later day gained is not in them, so a replay that asks for it is refused as where the day was read alone."""
    deliver(shop, "parquet", rows(stay="x"))
    context = deliver(shop, "parquet", rows(stay="x", stay_s="7", seen_at="2026-03-02T10:00:00Z"), NEXT)
    with pytest.raises(GateRefused):
        validate_sources.run(context, Days(DAY.first, NEXT.first))
    names = {row.delivered_ds: set(row.raw) for row in context.lake.read("quarantine_visits").collect()}
    assert names == {DAY.first: {"visit", "user", "seen_at", "page", "stay"}, NEXT.first: {"visit", "user", "seen_at", "page", "stay", "stay_s"}}
    with pytest.raises(BadInput, match="its quarantined rows have no column stay_s"):
        replay_quarantine.run(from_column(context, "stay_s", "parquet"), "visits-2026-03-01")


@pytest.mark.parametrize(("arrived", "last"), [(("2026-3-9", "2026-3-10"), date(2026, 3, 10)), (("2026-03-09 00:00:00", "never"), date(2026, 3, 9))])
def test_the_last_delivered_day_is_read_as_the_days_are(shop: Context, arrived: tuple[str, ...], last: date) -> None:
    """Without leading zeros, or with a time; as dates, not as text."""
    (source,) = visits("json").sources
    named = source.model_copy(update={"input": source.input.model_copy(update={"path": "visits", "delivered_ds": "arrived"})})
    (Path(shop.input_root) / "visits").mkdir()
    (Path(shop.input_root) / "visits" / "part.json").write_text("".join(json.dumps({"arrived": day}) + "\n" for day in arrived))
    assert last_delivered(shop.spark, named, shop.input_root) == last


def test_an_input_that_lost_its_newest_days_leaves_them_as_they_are(shop: Context) -> None:
    """Deliveries named by a column alone: a day after the last one is refused before anything is written of the days asked for."""
    (source,) = visits("json").sources
    named = source.model_copy(update={"input": source.input.model_copy(update={"path": "visits", "delivered_ds": "arrived"})})
    context = replace(shop, catalog=shop.catalog.model_copy(update={"sources": (named,)}))
    folder, both = Path(context.input_root) / "visits", Days(DAY.first, NEXT.first)
    folder.mkdir()
    lines = [json.dumps(row | {"arrived": f"2026-03-0{1 + i % 2}"}) + "\n" for i, row in enumerate(rows())]
    (folder / "part.json").write_text("".join(lines))
    validate_sources.run(context, both)
    tables = ("source_visits", "deliveries")
    before = [context.lake.version(table) for table in tables]
    (folder / "part.json").write_text("".join(lines[::2]))
    for days in (NEXT, both):
        with pytest.raises(BadInput, match="no source delivered anything on 2026-03-02, and the last delivered day is 2026-03-01"):
            validate_sources.run(context, days)
    assert [context.lake.version(table) for table in tables] == before


def test_a_replay_that_is_cut_short_leaves_a_day_to_validate(refused: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its tables a row is in both: nothing is built of that, and it can't be replayed over; a validation mends it."""
    context = bounded(refused, 100)
    with monkeypatch.context() as patched:
        patched.setattr(replay_quarantine, "_recount", None)
        with pytest.raises(TypeError):
            replay_quarantine.run(context, "visits-2026-03-01")
    with pytest.raises(GateRefused, match="did not end"):
        build_user_features.run(context, DAY)
    with pytest.raises(GateRefused, match="the last validation of 2026-03-01 did not end; run `u2qt validate --ds 2026-03-01`"):
        replay_quarantine.run(context, "visits-2026-03-01")
    validate_sources.run(context, DAY)
    assert (outcomes(context)[0].clean, context.lake.read("source_visits").count()) == (4, 4)


def test_a_replay_waits_for_another_run_of_its_day(refused: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """And reads nothing before it has the day."""
    waiting: list[Days] = []

    @contextmanager
    def held(lake: Lakehouse, days: Days) -> Iterator[None]:
        waiting.append(days)
        validate_sources.run(bounded(refused, 100), DAY)  # what the other run does meanwhile
        yield

    monkeypatch.setattr(replay_quarantine, "held_days", held)
    assert replay_quarantine.run(bounded(refused, 100), "visits-2026-03-01") == {"released": 0, "refused": 0}
    assert (waiting, refused.lake.read("source_visits").count()) == ([DAY], 4)


def test_nothing_delivered_stops_and_an_empty_delivery_is_blocked(shop: Context) -> None:
    """A folder that is not there may still come; one without rows is somebody's answer."""
    with pytest.raises(BadInput, match="nothing delivered at"):
        validate_sources.run(shop, DAY)
    empty = Path(shop.input_root) / "visits" / str(DAY.first)
    empty.mkdir(parents=True)
    (empty / "part-0.csv").write_text("visit,user,seen_at,page,stay\n")
    with pytest.raises(GateRefused, match="0 rows delivered, expected at least 1"):
        validate_sources.run(shop, DAY)
    assert outcomes(shop)[0].gate == "blocked"


def test_a_delivery_that_comes_twice_counts_once(shop: Context) -> None:
    """In one folder its rows are duplicates; on a later day they lose to the dedup key when features are built."""
    context = deliver(shop, "csv", rows() + rows())
    validate_sources.run(context, DAY)
    delivery, _ = outcomes(context)
    assert (delivery.rows_in, delivery.clean, delivery.duplicates) == (8, 4, 4)
    validate_sources.run(deliver(context, "csv", rows(), NEXT), NEXT)
    assert context.lake.read("source_visits").count() == 8
    build_user_features.run(context, DAY, None)
    assert [row.visits_count for row in context.lake.read("user_features").collect()] == [1] * 4


def test_a_partial_text_file_quarantines_its_torn_line(shop: Context) -> None:
    """CSV and JSON end where the copy broke off: the torn line is refused, the lines before it are right; the volume gate sees the rest."""
    for format in ("csv", "json"):
        context = deliver(shop, format, rows())
        file = Path(shop.input_root) / "visits" / str(DAY.first) / f"part-0.{format}"
        file.write_text(file.read_text()[:-20])
        validate_sources.run(context, DAY)
        delivery, _ = outcomes(context)
        assert (delivery.clean, delivery.quarantined) == (3, 1)
        assert "row_malformed:row" in reasons(context)


@pytest.mark.parametrize("damage", ["truncated", "one file retyped"])
def test_a_partial_or_mixed_parquet_delivery_stops_the_day(shop: Context, damage: str) -> None:
    """Parquet has its footer last: half a file is none. Nothing of the day is written."""
    context = deliver(shop, "parquet", rows())
    file = Path(shop.input_root) / "visits" / str(DAY.first) / "part-0.parquet"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        pq.write_table(pa.Table.from_pylist(rows(stay="7 s")), file.with_name("part-1.parquet"))
    with pytest.raises(BadInput, match=r"source visits.*(can't read|can't be read)"):
        validate_sources.run(context, DAY)
    assert context.lake.read("source_visits").isEmpty()
