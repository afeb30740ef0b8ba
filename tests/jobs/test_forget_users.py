"""Forgetting: an id is nowhere in the lakehouse, in no version and no file; the others' rows stand; later deliveries are refused."""

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from jobs import audit_tokens, build_user_features, encode_users, forget_users, plan_days, publish_tokens, validate_sources
from jobs.context import Context
from jobs.errors import BadInput
from jobs.forget_users import WITHOUT_IDS, held_ids, read_ids
from jobs.forgotten_ids import Key, marked, read_key
from jobs.init_lakehouse import run as init
from schemas.keys import Days
from schemas.lakehouse import tables

DAYS = Days(date(2024, 1, 1), date(2024, 1, 3))
STRANGER = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"  # 128 bits, in a line that can't be read
FIRST, SECOND = "5d41402abc4b2a76b9719d911017c592", "7d793037a0760186574b0282f2f435e7"
ON_TIME = datetime(2023, 1, 1, tzinfo=UTC)  # no row is late by then
STAGES = (encode_users, audit_tokens, publish_tokens)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "secret" / "key"
    file.parent.mkdir()
    file.write_text("0123456789abcdef" * 4)
    file.chmod(0o600)
    return file


@pytest.fixture
def planted(writable: Context, simulated: Path, tmp_path: Path, key: Path) -> Context:
    """`writable`, three more users delivered: in clean rows, in quarantined ones, in a superseded row, and in a file of the checkpoints."""
    raw = tmp_path / "raw"
    shutil.copytree(simulated / "raw", raw)
    context = replace(writable, input_root=str(raw), forget_key=str(key), run_id="planted")
    spark = context.spark
    for ds in DAYS:
        bills = spark.read.parquet(str(raw / "bill" / f"delivered_ds={ds}"))
        column = context.catalog.source("bill").entity_key.raw_name
        two = bills.groupBy(column).count().orderBy(F.desc("count"), column).limit(2).collect()
        renamed = {two[0][0]: FIRST, two[1][0]: SECOND}
        mine = bills.where(F.col(column).isin(*renamed)).replace(renamed, subset=[column])
        mine = mine.withColumn("bill_id", F.concat(F.lit("planted-"), "bill_id"))
        spoilt = mine.limit(3).withColumn("bill_id", F.lit(None).cast("string"))
        mine.unionByName(spoilt).write.mode("append").parquet(str(raw / "bill" / f"delivered_ds={ds}"))
    work(context)
    (Path(context.lake.root) / "checkpoints").mkdir(exist_ok=True)
    (Path(context.lake.root) / "checkpoints" / ".v9.training").write_bytes(FIRST.encode())
    return context


def work(context: Context, *, force: bool = False) -> None:
    validate_sources.run(context, DAYS, force=force)
    build_user_features.run(context, DAYS, force=force)
    for stage in STAGES:
        stage.run(context, DAYS, "v1", force=force)


def forms(user: str) -> list[bytes]:
    """An id as it could stand in a file."""
    return [user.encode(), user.encode("utf-16-le"), base64.b64encode(user.encode())[:-4], bytes.fromhex(user), user.encode().hex().encode()]


def traces(root: Path, users: tuple[str, ...]) -> Iterator[str]:
    """Files below `root` that hold one of the ids: parquet decoded, all others byte by byte."""
    sought = [form for user in users for form in forms(user)]
    for path in sorted(root.rglob("*")):
        if path.is_file():
            content = path.read_bytes() + str(path).encode()
            if path.suffix == ".parquet":
                content += repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
            if any(form in content for form in sought):
                yield str(path.relative_to(root))


def rows_of_others(context: Context, table: str) -> list[object]:
    rows = context.lake.read(table)
    user = F.col("raw")[context.catalog.source("bill").entity_key.raw_name] if "raw" in rows.columns else F.col("user_id").cast("string")
    rows = rows.where(~user.isin(FIRST, SECOND) | user.isNull())
    return sorted(map(repr, rows.drop("run_id").collect()))


def listed(tmp_path: Path, *users: str) -> Path:
    file = tmp_path / "users.txt"
    file.write_text("\n".join(users) + "\n")
    return file


def test_forgotten_users_are_nowhere_and_stay_away(planted: Context, tmp_path: Path) -> None:
    """Rows, versions, log, statistics and run files; others' rows, sums and plans are untouched; delivered again, they are refused."""
    users, root = (FIRST, SECOND), Path(planted.lake.root)
    found = list(traces(root, users))
    for place in ("source_bill", "quarantine_bill", "user_features", "staged_user_tokens", "user_tokens", "checkpoints"):
        assert any(path.startswith(place) for path in found), f"the search would find an id in {place}"
    kept = ("source_bill", "quarantine_bill", "user_features", "user_tokens")
    before = {table: rows_of_others(planted, table) for table in kept}
    due = plan_days.run(planted, DAYS, cutoff=ON_TIME)
    forgetting = replace(planted, run_id="forgetting")
    made = forget_users.run(forgetting, listed(tmp_path, *users), tmp_path / "certificate.json")
    assert list(traces(root, users)) == []
    assert {table: rows_of_others(forgetting, table) for table in kept} == before
    assert (made.asked, made.newly_forgotten, made.run_files) == (2, 2, [".v9.training"])
    assert min(made.rows[table] for table in ("source_bill", "quarantine_bill", "user_features", "user_tokens")) > 0
    certificate = (tmp_path / "certificate.json").read_text()
    assert json.loads(certificate)["rows"] == made.rows
    assert not any(user in certificate for user in users)
    assert planted.lake.read("deliveries").where("rows_in <> clean + quarantined + duplicates + coalesce(forgotten, 0)").isEmpty()
    assert [(e.ds, e.stage) for e in plan_days.run(forgetting, DAYS, cutoff=ON_TIME)] == [(e.ds, e.stage) for e in due]
    again = replace(planted, run_id="again")
    validate_sources.run(again, DAYS)
    assert {row.status for row in again.lake.read("runs").where("run_id = 'again'").collect()} == {"skipped"}, "the days stand as they were left"
    work(replace(planted, run_id="forced"), force=True)
    assert list(traces(root, users)) == []
    refused = {row.source: row.n for row in again.lake.read("deliveries").groupBy("source").agg(F.sum("forgotten").alias("n")).collect()}
    assert refused["bill"] == made.rows["source_bill"] + made.rows["quarantine_bill"]
    assert refused["app"] == 0
    assert {table: rows_of_others(again, table) for table in kept} == before
    second = forget_users.run(replace(planted, run_id="second"), listed(tmp_path, *users), tmp_path / "second.json")
    assert (second.newly_forgotten, sum(second.rows.values())) == (0, 0)


def test_a_forgetting_that_was_cut_short_is_repeated(planted: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tables: from the first moment nobody comes back, and the same command goes on with what is left."""
    merge, done = forget_users._merge, []

    def breaking(*arguments: object) -> int:
        if len(done) == 3:
            raise MemoryError
        done.append(arguments)
        return merge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(forget_users, "_merge", breaking)
    with pytest.raises(MemoryError):
        forget_users.run(replace(planted, run_id="cut"), listed(tmp_path, FIRST, SECOND), tmp_path / "cut.json")
    assert not (tmp_path / "cut.json").exists()
    assert planted.lake.read("forgotten").count() == 2
    monkeypatch.setattr(forget_users, "_merge", merge)
    forget_users.run(replace(planted, run_id="whole"), listed(tmp_path, FIRST, SECOND), tmp_path / "whole.json")
    assert list(traces(Path(planted.lake.root), (FIRST, SECOND))) == []


def test_every_table_is_known_to_hold_ids_or_none(ready: Context) -> None:
    """A new table can't be forgotten: somebody has to decide."""
    held = {one.table for one in held_ids(ready)}
    assert held | {*WITHOUT_IDS} == {table.name for table in tables(ready.catalog)}
    assert not held & {*WITHOUT_IDS}
    for table in tables(ready.catalog):
        if table.name in WITHOUT_IDS:
            assert not {"user_id", "raw"} & {*table.columns}


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [("short", 0o600, "has 5 bytes, expected at least 32"), ("0" * 64, 0o640, "others may read .*chmod 600"), (None, 0o600, "no file .*openssl rand")],
)
def test_a_key_that_protects_nothing_is_refused(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    """Short, open to others, or not there; the message has the remedy."""
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(BadInput, match=said):
        read_key(str(file), "/data/lake")
    with pytest.raises(BadInput, match=r"none given.*openssl rand"):
        read_key(None, "/data/lake")


def test_a_key_inside_the_lakehouse_is_refused(tmp_path: Path, key: Path) -> None:
    """Who has the tables would have it as well. Its text never says the secret."""
    with pytest.raises(BadInput, match="lies inside the lakehouse"):
        read_key(str(key), str(tmp_path))
    assert "0123456789abcdef" not in repr(read_key(str(key), "/data/lake"))


def test_without_its_key_a_lakehouse_takes_no_rows(ready: Context, key: Path, tmp_path: Path) -> None:
    """Missing or another one: everybody would come back, so the day stops."""
    user = listed(tmp_path, FIRST)
    forget_users.run(replace(ready, forget_key=str(key)), user, tmp_path / "a.json")
    with pytest.raises(BadInput, match="none given"):
        validate_sources.required_key(ready)
    other = tmp_path / "other"
    other.write_text("f" * 64)
    other.chmod(0o600)
    with pytest.raises(BadInput, match=r"found key [0-9a-f]{16}, expected [0-9a-f]{16} as in table forgotten"):
        validate_sources.required_key(replace(ready, forget_key=str(other)))
    with pytest.raises(BadInput, match="as in table forgotten"):
        forget_users.run(replace(ready, forget_key=str(other)), user, tmp_path / "b.json")
    with pytest.raises(BadInput, match="is there already"):
        forget_users.run(replace(ready, forget_key=str(key)), user, tmp_path / "a.json")


@pytest.mark.parametrize(("content", "said"), [(b"\n\n", "found no id"), (b"\xff\xfe\x00", "can't be read as UTF-8"), (b"a\nb\x07\n", "line 2: found")])
def test_a_file_without_ids_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """Nothing is forgotten by mistake, and no id is repeated in the message."""
    file = tmp_path / "users.txt"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read_ids(file)
    with pytest.raises(BadInput, match="no such file"):
        read_ids(tmp_path / "none.txt")


def test_a_torn_line_is_matched_by_its_words(ready: Context, key: Path) -> None:
    """A line that its format can't read may hold an id anywhere."""
    secret = Key(secret=b"k" * 32)
    raw = "struct<user: string, _corrupt_record: string>"
    rows = [(("u1", None), "u1"), (("u2", None), "u2"), ((None, f'{{"user": "{STRANGER}", "x'), None), ((None, "nobody's"), None)]
    checked = ready.spark.createDataFrame(rows, f"raw {raw}, user_id string")
    forgotten = ready.spark.createDataFrame([(secret.hmac_of(user),) for user in ("u2", STRANGER)], "hmac string")
    found = {row.raw["_corrupt_record"] or row.user_id: row.forgotten for row in marked(checked, forgotten, secret).collect()}
    assert found == {"u1": False, "u2": True, rows[2][0][1]: True, "nobody's": False}


def test_init_brings_an_earlier_lakehouse_s_sum_up_to_date(ready: Context) -> None:
    """The constraint of `deliveries` without the fourth outcome is replaced."""
    path = ready.lake.path("deliveries")
    ready.spark.sql(f"ALTER TABLE delta.`{path}` DROP CONSTRAINT outcomes_add_up")
    ready.spark.sql(f"ALTER TABLE delta.`{path}` ADD CONSTRAINT outcomes_add_up CHECK (rows_in = clean + quarantined + duplicates)")
    init(ready)
    properties = ready.spark.sql(f"SHOW TBLPROPERTIES delta.`{path}`").collect()
    assert {row.key: row.value for row in properties}["delta.constraints.outcomes_add_up"].endswith("+ coalesce(forgotten, 0)")
