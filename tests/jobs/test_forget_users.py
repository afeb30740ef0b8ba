"""Forgetting: an id is nowhere in the lakehouse, in no version and no file; the others' rows stand; later deliveries are refused."""

import base64
import gzip
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import audit_tokens, build_user_features, encode_users, forget_users, ledger, plan_days, publish_tokens, replay_quarantine, validate_sources
from jobs.context import Context
from jobs.delta_tables import Lakehouse, Where
from jobs.errors import BadInput
from jobs.forgotten_ids import plain
from jobs.tables_with_ids import WithIds, tables_with_ids
from schemas.keys import Days

DAYS = Days(date(2024, 1, 1), date(2024, 1, 3))
FIRST_DAY, SECOND_DAY = Days(date(2024, 1, 1), date(2024, 1, 1)), Days(date(2024, 1, 2), date(2024, 1, 2))
FIRST, SECOND, TORN = "5d41402abc4b2a76b9719d911017c592", "7d793037a0760186574b0282f2f435e7", "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
USERS = (FIRST, SECOND, TORN)  # 128 bits each
ON_TIME = datetime(2023, 1, 1, tzinfo=UTC)  # no row is late by then
MUCH_LATER = datetime(2024, 2, 1, tzinfo=UTC)
TOKEN_STAGES = (encode_users, audit_tokens, publish_tokens)
PLACES = ("source_bill", "quarantine_bill", "quarantine_search", "user_features", "staged_user_tokens", "user_tokens", "user_tokens_superseded", "checkpoints")


def work(context: Context, days: Days = DAYS, *, version: str = "v1", cutoff: datetime | None = None, force: bool = False) -> None:
    validate_sources.run(context, days, force=force)
    build_user_features.run(context, days, cutoff, force=force)
    for stage in TOKEN_STAGES:
        stage.run(context, days, version, force=force)


def bills(context: Context, ds: date) -> Path:
    return Path(context.input_root) / "bill" / f"delivered_ds={ds}"


def deliver(context: Context, ds: date, users: tuple[str, ...], prefix: str, delivered_at: str | None = None) -> None:
    """Bills of `users` on `ds`, as copies of the bills of the day's busiest users; three more of the first are refused for want of a number."""
    rows = context.spark.read.parquet(str(bills(context, ds)))
    rows = rows.where(F.length("uid") < 32).where(~F.col("bill_id").startswith("planted"))
    busiest = [row.uid for row in rows.groupBy("uid").count().orderBy(F.desc("count"), "uid").limit(len(users)).collect()]
    renamed = dict(zip(busiest, users, strict=True))
    mine = rows.where(F.col("uid").isin(busiest)).replace(renamed, subset=["uid"]).withColumn("bill_id", F.concat(F.lit(prefix), "bill_id"))
    if delivered_at is not None:
        mine = mine.withColumn("delivered_at", F.lit(delivered_at))
    refused = mine.where(F.col("uid").contains(users[0])).limit(3).withColumn("bill_id", F.lit(None).cast("string"))
    to = ds if delivered_at is None else date.fromisoformat(delivered_at[:10])
    mine.unionByName(refused).write.mode("append").parquet(str(bills(context, to)))


@pytest.fixture(scope="module")
def published(published_few: Context) -> Context:
    """Three sources are enough here, and half the time."""
    return published_few


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "key"
    file.write_text("0123456789abcdef" * 4 + "\n")
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def planted_once(published: Context, simulated: Path, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Three more users: in clean and refused rows, in a torn line, with spaces around, replaced by a repair, in a shadow version, in a run file."""
    home = tmp_path_factory.mktemp("planted")
    shutil.copytree(simulated / "raw", home / "raw")
    shutil.copytree(published.lake.root, home / "lake")
    lake = Lakehouse(published.spark, str(home / "lake"))
    context = replace(published, lake=lake, input_root=str(home / "raw"), forget_key=str(key), run_id="planted")
    for ds in DAYS:
        deliver(context, ds, (FIRST, SECOND), "planted-")
    deliver(context, FIRST_DAY.first, (f" {SECOND} ",), "planted-padded-")
    torn = Path(context.input_root) / "search" / f"delivered_ds={FIRST_DAY.first}" / "torn.json"
    torn.write_text(f'{{"search_id": "s1", "user_id": "{TORN}", "que\n')
    work(context)
    deliver(context, SECOND_DAY.first, (FIRST, "just-another-user"), "planted-late-", "2024-01-03 20:00:00")
    validate_sources.run(context, DAYS)
    late = replace(context, run_id="repair")
    build_user_features.run(late, SECOND_DAY, MUCH_LATER)
    for stage in TOKEN_STAGES:
        stage.run(late, SECOND_DAY, "v1")
    lake.append("tokenizers", lake.read("tokenizers").withColumn("tokenizer_version", F.lit("v2")), {})
    for stage in TOKEN_STAGES:
        stage.run(replace(context, run_id="shadow"), FIRST_DAY, "v2")
    checkpointed(lake, "source_bill")
    (home / "lake" / "checkpoints").mkdir(exist_ok=True)
    (home / "lake" / "checkpoints" / ".v9.training").write_bytes(FIRST.encode())
    return context


def checkpointed(lake: Lakehouse, table: str) -> None:
    """A checkpoint of the table's Delta log: what a log of a hundred commits has."""
    logs = lake.spark._jvm.org.apache.spark.sql.delta.DeltaLog  # type: ignore[union-attr]
    logs.forTable(lake.spark._jsparkSession, lake.path(table)).checkpoint()


@pytest.fixture
def planted(planted_once: Context, tmp_path: Path) -> Context:
    return copied(planted_once, tmp_path / "copy")


@pytest.fixture(scope="module")
def forgotten_once(planted_once: Context, tmp_path_factory: pytest.TempPathFactory) -> Context:
    home = tmp_path_factory.mktemp("forgotten")
    context = replace(copied(planted_once, home), run_id="forgetting")
    forget_users.run(context, listed(home, *USERS), home / "certificate.json")
    return context


def copied(context: Context, home: Path) -> Context:
    shutil.copytree(context.lake.root, home / "lake")
    shutil.copytree(context.input_root, home / "raw")
    return replace(context, lake=Lakehouse(context.spark, str(home / "lake")), input_root=str(home / "raw"))


def listed(folder: Path, *users: str) -> Path:
    file = folder / "users.txt"
    file.write_text("\n".join(users) + "\n")
    return file


def forms(user: str) -> Iterator[bytes]:
    """An id as it could stand in a file: as text, as its 128 bits, in hex of its text, in base64 at each of three offsets."""
    yield from (user.encode(), user.encode("utf-16-le"), user.encode("utf-16-be"), bytes.fromhex(user), user.encode().hex().encode())
    for offset in range(3):
        yield base64.b64encode(b"\0" * offset + user.encode())[4 if offset else 0 : -4]


def traces(root: Path, users: tuple[str, ...] = USERS) -> list[str]:
    """Files below `root` that hold one of the ids: parquet decoded, gzip unpacked, all others byte by byte, and their names."""
    sought = [form for user in users for form in forms(user)]
    return [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if any(form in content_of(path) for form in sought)]


def content_of(path: Path) -> bytes:
    content = str(path).encode()
    if not path.is_file():
        return content
    content += path.read_bytes()
    if path.suffix == ".gz":
        content += gzip.decompress(path.read_bytes())
    if path.suffix == ".parquet":
        content += repr(pq.ParquetFile(path).read().to_pylist()).encode()
    return content


def others(context: Context) -> dict[str, list[str]]:
    """Every row of every table with ids that is not of the planted users; as text, without who wrote it."""
    return {table.name: sorted(repr(row) for row in of_others(context.lake.read(table.name)).drop("run_id").collect()) for table in of_catalog(context)}


def of_catalog(context: Context) -> list[WithIds]:
    return list(tables_with_ids(context.catalog))


def of_others(rows: DataFrame) -> DataFrame:
    if "raw" in rows.columns:
        return rows.where(~F.to_json("raw").rlike("|".join(USERS)))
    return rows.where(~F.coalesce(plain(F.col("user_id").cast("string")), F.lit("")).isin(*USERS))


def due(context: Context, version: str | None = None) -> list[tuple[date, str, str]]:
    return [(e.ds, e.stage, e.reason) for e in plan_days.run(context, DAYS, version, ON_TIME)]


def worked(context: Context) -> set[tuple[str, str]]:
    return {(row.stage, row.status) for row in context.lake.read("runs").where(F.col("run_id") == context.run_id).collect()}


SKIPPED = {(stage.STAGE, "skipped") for stage in (validate_sources, build_user_features, *TOKEN_STAGES)}


def test_the_search_finds_what_was_planted(planted_once: Context, tmp_path: Path) -> None:
    """In every place and form, so that finding nothing later says something."""
    found = traces(Path(planted_once.lake.root))
    for place in PLACES:
        assert any(path.startswith(place) for path in found), place
    assert any("tokenizer_version=v2" in path for path in found)
    for number, form in enumerate(forms(FIRST)):
        (tmp_path / f"{number}.bin").write_bytes(b"x" + form + b"y")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(FIRST.encode()))
    (tmp_path / FIRST).mkdir()
    assert len(traces(tmp_path)) == len(list(forms(FIRST))) + 2


def test_forgotten_users_are_nowhere_and_the_others_stay(planted_once: Context, forgotten_once: Context) -> None:
    """No table, version, file, log, checkpoint of a log or run file holds one; every other row is as it was."""
    root = Path(forgotten_once.lake.root)
    checkpointed(forgotten_once.lake, "source_bill")
    assert traces(root) == []
    assert others(forgotten_once) == others(planted_once)
    assert forgotten_once.lake.read("forgotten").select("hmac").distinct().count() == len(USERS)
    assert not list((root / "_u2qt").rglob("underway*"))


def test_the_certificate_says_what_was_removed_where(planted_once: Context, forgotten_once: Context) -> None:
    """Counted by Delta, equal to the rows that are missing; without an id or a hash of one."""
    text = (Path(forgotten_once.lake.root).parent / "certificate.json").read_text()
    made = json.loads(text)
    assert (made["asked"], made["found"], made["newly_forgotten"]) == (3, 3, 3)
    for table in of_catalog(planted_once):
        missing = planted_once.lake.read(table.name).count() - forgotten_once.lake.read(table.name).count()
        assert made["tables"][table.name]["rows"] == missing
    assert min(made["tables"][place]["rows"] for place in PLACES[:-1]) > 0
    assert made["tables"]["user_tokens"]["files_deleted"] >= made["tables"]["user_tokens"]["files_rewritten"] > 0
    assert [Path(path).name for path in made["run_files"]] == [".v9.training"]
    assert made["not_tables"] == ["checkpoints"]
    assert any("raw input" in line for line in made["not_covered"])
    assert not any(form in text.encode() for user in USERS for form in forms(user))
    assert not any(row.hmac in text for row in forgotten_once.lake.read("forgotten").collect())
    ledger = forgotten_once.lake.read("runs").where("stage = 'forget_users'").collect()
    assert [(row.status, row.rows["removed"], json.loads(row.detail)["certificate"]) for row in ledger] == [("done", made["rows"], made["certificate_id"])]


def test_days_that_stood_still_stand(planted_once: Context, forgotten_once: Context, tmp_path: Path) -> None:
    """The plan is as before, and a run of all days skips every stage, under both versions; the outcomes add up."""
    assert due(forgotten_once) == due(planted_once) == []
    context = replace(copied(forgotten_once, tmp_path), run_id="again")
    work(context)
    assert worked(context) == SKIPPED
    shadow = replace(context, run_id="shadow-again")
    for stage in TOKEN_STAGES:
        stage.run(shadow, FIRST_DAY, "v2")
    assert worked(shadow) == {(stage.STAGE, "skipped") for stage in TOKEN_STAGES}
    assert context.lake.read("deliveries").where("rows_in <> clean + quarantined + duplicates + coalesce(forgotten, 0)").isEmpty()


def outcomes(context: Context) -> list[tuple[object, ...]]:
    rows = context.lake.read("deliveries").na.fill(0, ["forgotten"]).drop("run_id", "gate", "nulls")  # nulls of touched deliveries are not known any more
    return sorted(tuple(row) for row in rows.collect())


def test_delivered_again_they_are_refused(planted_once: Context, forgotten_once: Context, tmp_path: Path) -> None:
    """Every day from its raw rows anew: the same outcomes as the removal left, no trace, the others' rows as they were."""
    context = replace(copied(forgotten_once, tmp_path), run_id="forced")
    validate_sources.run(context, DAYS, force=True)
    assert outcomes(context) == outcomes(forgotten_once)
    counts = {row.source: row.n for row in context.lake.read("deliveries").groupBy("source").agg(F.sum("forgotten").alias("n")).collect()}
    assert counts["bill"] > 0
    assert (counts["search"], counts["profile"]) == (1, 0)
    ledger = context.lake.read("runs").where("run_id = 'forced' AND stage = 'validate_sources'").collect()
    assert [row.rows["forgotten"] for row in ledger] == [counts["bill"] + 1]
    build_user_features.run(context, DAYS, force=True)
    for stage in TOKEN_STAGES:
        stage.run(context, DAYS, "v1", force=True)
    assert traces(Path(context.lake.root)) == []
    assert others(context)["source_bill"] == others(planted_once)["source_bill"]
    assert others(context)["quarantine_search"] == others(planted_once)["quarantine_search"]


def test_a_late_delivery_for_a_touched_day_still_works(forgotten_once: Context, tmp_path: Path) -> None:
    """Of the two users in it one is refused, and the other's day is repaired and published."""
    context = replace(copied(forgotten_once, tmp_path), run_id="late")
    deliver(context, FIRST_DAY.first, (FIRST, "somebody-new"), "late-", "2024-01-02 20:00:00")
    validate_sources.run(context, DAYS)
    build_user_features.run(context, FIRST_DAY, MUCH_LATER)
    for stage in TOKEN_STAGES:
        stage.run(context, FIRST_DAY, "v1")
    assert context.lake.read("user_tokens").where("user_id = 'somebody-new' AND ds = '2024-01-01' AND tokenizer_version = 'v1'").count() == 1
    assert traces(Path(context.lake.root)) == []


def test_a_replay_lets_nobody_back(forgotten_once: Context, tmp_path: Path) -> None:
    """A refused row of theirs that is there all the same (a removal was cut short) becomes a forgotten one."""
    context = replace(copied(forgotten_once, tmp_path), run_id="replay")
    before = context.lake.read("deliveries").where("source = 'bill' AND delivered_ds = '2024-01-01'").collect()[0]
    row = context.lake.read("quarantine_bill").where("delivered_ds = '2024-01-01'").limit(1)
    theirs = row.withColumn("raw", F.map_concat(F.map_filter("raw", lambda k, _: k != "uid"), F.create_map(F.lit("uid"), F.lit(FIRST))))
    context.lake.append("quarantine_bill", theirs, {})
    claimed = {"rows_in": before.rows_in + 1, "quarantined": before.quarantined + 1}
    one = context.spark.createDataFrame([before.asDict() | claimed], context.lake.read("deliveries").schema)
    rest = context.lake.read("deliveries").where("delivered_ds = '2024-01-01' AND source <> 'bill'").localCheckpoint()
    context.lake.replace("deliveries", rest.unionByName(one), Where(days=FIRST_DAY, day_column="delivered_ds"), {})
    replay_quarantine.run(context, before.delivery_id)
    after = context.lake.read("deliveries").where("source = 'bill' AND delivered_ds = '2024-01-01'").collect()[0]
    assert (after.forgotten, after.quarantined, after.clean, after.duplicates) == (before.forgotten + 1, before.quarantined, before.clean, before.duplicates)


def test_forgetting_again_finds_nothing(forgotten_once: Context, tmp_path: Path) -> None:
    """And says so; nothing is written but the ledger."""
    context = replace(copied(forgotten_once, tmp_path), run_id="second")
    second = forget_users.run(context, listed(tmp_path, *USERS), tmp_path / "second.json")
    assert (second.asked, second.found, second.newly_forgotten, second.rows, second.days_told) == (3, 0, 0, 0, 0)
    work(replace(context, run_id="third"))
    assert worked(replace(context, run_id="third")) == SKIPPED


@pytest.mark.parametrize("tables_done", [0, 9])
def test_a_forgetting_that_was_cut_short_is_gone_on_with(planted: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables_done: int) -> None:
    """Between two tables: nobody comes back meanwhile, and the same command ends as one without a break, under one certificate."""
    remove, done = forget_users._remove_from, []

    def breaking(*arguments: object) -> None:
        if len(done) == tables_done:
            raise ZeroDivisionError
        done.append(arguments)
        remove(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(forget_users, "_remove_from", breaking)
    with pytest.raises(ZeroDivisionError):
        forget_users.run(replace(planted, run_id="cut"), listed(tmp_path, *USERS), tmp_path / "cut.json")
    assert not (tmp_path / "cut.json").exists()
    assert traces(Path(planted.lake.root))
    monkeypatch.undo()
    with pytest.raises(BadInput, match=r"was cut short, and 2 of its users are not in this file"):
        forget_users.run(replace(planted, run_id="other"), listed(tmp_path, FIRST), tmp_path / "other.json")
    ids = {row.certificate_id for row in planted.lake.read("forgotten").collect()}
    made = forget_users.run(replace(planted, run_id="whole"), listed(tmp_path, *USERS), tmp_path / "whole.json")
    assert ids == {made.certificate_id}
    assert (made.found, made.newly_forgotten) == (3, 3)
    assert min(made.tables[place].rows for place in PLACES[:-1]) > 0
    assert traces(Path(planted.lake.root)) == []
    again = replace(planted, run_id="again")
    work(again)
    assert worked(again) == SKIPPED


def test_a_certificate_that_was_the_last_word_is_completed(planted: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process died before it could say that it was done: the same command says all that was deleted, before and since."""
    file, unlink = tmp_path / "same.json", Path.unlink

    def dying(path: Path, missing_ok: bool = False) -> None:
        if path.name == "underway.json":
            raise ZeroDivisionError
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", dying)
    with pytest.raises(ZeroDivisionError):
        forget_users.run(replace(planted, run_id="cut"), listed(tmp_path, *USERS), file)
    monkeypatch.undo()
    first = json.loads(file.read_text())
    with pytest.raises(BadInput, match="is there already"):
        forget_users.run(replace(planted, run_id="other"), listed(tmp_path, *USERS), listed(tmp_path, *USERS))
    forget_users.run(replace(planted, run_id="whole"), listed(tmp_path, *USERS), file)
    second = json.loads(file.read_text())
    assert first["run_files"]
    for field in ("certificate_id", "found", "newly_forgotten", "run_files", "days_told", "rows"):
        assert second[field] == first[field], field
    assert all(second["tables"][name]["files_deleted"] >= table["files_deleted"] for name, table in first["tables"].items())


def test_a_removal_that_the_ledger_did_not_take_is_gone_on_with(planted: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate is there, its row is not (a full disk): the same command ends well and leaves the row."""
    file, append = tmp_path / "same.json", ledger._append

    def full(context: Context, record: ledger.StageRecord, started: datetime) -> None:
        if record.stage == forget_users.STAGE:
            raise ZeroDivisionError
        append(context, record, started)

    monkeypatch.setattr(ledger, "_append", full)
    with pytest.raises(ZeroDivisionError):
        forget_users.run(replace(planted, run_id="cut"), listed(tmp_path, *USERS), file)
    assert file.is_file()
    monkeypatch.undo()
    forget_users.run(replace(planted, run_id="whole"), listed(tmp_path, *USERS), file)
    told = planted.lake.read("runs").where("stage = 'forget_users' AND status = 'done'").collect()
    assert [row.run_id for row in told] == ["whole"]


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def test_a_certificate_after_a_break_names_what_went_before_it(planted: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that the first process deleted are not there to be found by the second."""
    report = tmp_path / f"{FIRST_DAY.first}.html"
    report.write_text("a report")
    monkeypatch.setattr(forget_users, "Certificate", broken)
    with pytest.raises(ZeroDivisionError):
        forget_users.run(replace(planted, run_id="cut"), listed(tmp_path, *USERS), tmp_path / "cut.json", reports=tmp_path)
    monkeypatch.undo()
    assert not report.exists()
    made = forget_users.run(replace(planted, run_id="whole"), listed(tmp_path, *USERS), tmp_path / "whole.json", reports=tmp_path)
    assert [Path(path).name for path in (*made.run_files, *made.reports)] == [".v9.training", report.name]
    assert min(made.tables[place].files_deleted for place in PLACES[:-1]) > 0


def test_a_day_worked_on_between_is_worked_again(planted: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage read half removed is not taken for whole; the way on is the plan's."""
    monkeypatch.setattr(forget_users, "_count_again", broken)
    with pytest.raises(ZeroDivisionError):
        forget_users.run(replace(planted, run_id="cut"), listed(tmp_path, *USERS), tmp_path / "cut.json")
    monkeypatch.undo()
    validate_sources.run(replace(planted, run_id="between"), FIRST_DAY, force=True)
    made = forget_users.run(replace(planted, run_id="whole"), listed(tmp_path, *USERS), tmp_path / "whole.json")
    assert made.days_told == 0
    assert traces(Path(planted.lake.root)) == []
    assert {ds for ds, _, _ in due(planted)} == {*DAYS}
    work(replace(planted, run_id="again"))
    assert due(planted) == []
    assert traces(Path(planted.lake.root)) == []


def test_reports_of_touched_days_go_where_they_are_named(planted: Context, tmp_path: Path) -> None:
    """By their day; nothing else in the folder."""
    for name in ("2024-01-01.html", "2024-02-01.html", "index.html"):
        (tmp_path / name).write_text("a report")
    made = forget_users.run(planted, listed(tmp_path, FIRST), tmp_path / "c.json", reports=tmp_path)
    assert [Path(path).name for path in made.reports] == ["2024-01-01.html"]
    assert sorted(path.name for path in tmp_path.glob("*.html")) == ["2024-02-01.html", "index.html"]
    with pytest.raises(BadInput, match=r"--reports .*no such folder"):
        forget_users.run(planted, listed(tmp_path, FIRST), tmp_path / "d.json", reports=tmp_path / "none")
