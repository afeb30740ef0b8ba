"""Keys that protect nothing are refused; ids are matched by keyed hash, padded or in torn lines; a file of ids is one, or is refused."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs import forget_users, ids_to_forget, validate_sources
from jobs.context import Context
from jobs.errors import BadInput, Infrastructure
from jobs.forgotten_ids import Key, marked_by, plain, read_key, required_key, words
from jobs.ids_to_forget import read_ids
from jobs.init_lakehouse import run as init
from jobs.machine_faults import infrastructure_of
from jobs.tables_with_ids import WITHOUT_IDS, tables_with_ids
from schemas.catalog import Catalog
from schemas.keys import Days
from schemas.lakehouse import tables
from schemas.table import Table, required

FIRST, TORN = "5d41402abc4b2a76b9719d911017c592", "9f8e7d6c5b4a39281706f5e4d3c2b1a0"


def key_file(folder: Path, content: str = "0123456789abcdef" * 4, mode: int = 0o600, name: str = "key") -> Path:
    file = folder / name
    file.write_text(content)
    file.chmod(mode)
    return file


def test_every_table_is_known_to_hold_ids_or_none(spark: SparkSession, default_catalog: Catalog) -> None:
    """And what is said to hold none has no column for one."""
    held = {table.name for table in tables_with_ids(default_catalog)}
    assert held | WITHOUT_IDS == {table.name for table in tables(default_catalog)}
    assert not held & WITHOUT_IDS
    for table in tables(default_catalog):
        assert (table.name in held) == bool({"user_id", "raw"} & {*table.columns})


def test_a_new_table_can_t_be_forgotten(spark: SparkSession, default_catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has to decide about it."""
    new = Table(name="new_table", comment="New.", fields=(required("owner", "STRING", "Who."),))
    monkeypatch.setattr("jobs.tables_with_ids.tables", lambda catalog: (*tables(catalog), new))
    with pytest.raises(AssertionError, match="table new_table: neither known to hold ids nor known to hold none"):
        list(tables_with_ids(default_catalog))


@pytest.mark.parametrize(("content", "mode", "said"), [("short", 0o600, "has 5 bytes, expected at least 32"), ("0" * 64, 0o640, "mode 640.*chmod 600")])
def test_a_key_that_protects_nothing_is_refused(tmp_path: Path, content: str, mode: int, said: str) -> None:
    """Short, or open to others."""
    with pytest.raises(BadInput, match=said):
        read_key(str(key_file(tmp_path, content, mode)), "/data/lake")


def test_a_key_inside_the_lakehouse_is_refused(tmp_path: Path) -> None:
    """Who has the tables would have it as well; a link from outside is no way round. Its text never says the secret."""
    inside = key_file(tmp_path)
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(inside)
    for path in (inside, link):
        with pytest.raises(BadInput, match="lies inside the lakehouse"):
            read_key(str(path), str(tmp_path))
    assert "0123456789abcdef" not in repr(read_key(str(inside), "/data/lake"))


def test_a_missing_key_names_the_remedy(tmp_path: Path) -> None:
    """Not given, or not there."""
    with pytest.raises(Infrastructure, match=r"none given.*openssl rand -hex 32.*--key-file or U2QT_FORGET_KEY"):
        read_key(None, "/data/lake")
    with pytest.raises(Infrastructure, match=r"no file .*openssl rand"):
        read_key(str(tmp_path / "none"), "/data/lake")


def test_without_its_key_a_lakehouse_takes_no_rows(ready: Context, tmp_path: Path, simulated: Path) -> None:
    """Missing or another one: everybody would come back, so the day stops. A lakehouse that forgot nobody wants none."""
    assert required_key(ready) is None
    context = replace(ready, input_root=str(simulated / "raw"), forget_key=str(key_file(tmp_path)))
    users = tmp_path / "users.txt"
    users.write_text(FIRST)
    forget_users.run(context, users, tmp_path / "a.json")
    day = Days(date(2024, 1, 1), date(2024, 1, 1))
    with pytest.raises(Infrastructure, match="none given"):
        validate_sources.run(replace(context, forget_key=None), day)
    other = key_file(tmp_path, "f" * 64, name="other")
    with pytest.raises(BadInput, match=r"found key [0-9a-f]{16}, expected [0-9a-f]{16} as in table forgotten"):
        validate_sources.run(replace(context, forget_key=str(other)), day)
    assert ready.lake.read("source_bill").isEmpty()
    with pytest.raises(BadInput, match="as in table forgotten"):
        forget_users.run(replace(context, forget_key=str(other)), users, tmp_path / "b.json")
    with pytest.raises(BadInput, match="is there already"):
        forget_users.run(context, users, tmp_path / "a.json")


def test_a_catalog_that_lacks_a_source_of_the_lakehouse_forgets_nobody(ready: Context, tmp_path: Path) -> None:
    """Its rows would stay, and bring the users back."""
    few = ready.catalog.model_copy(update={"sources": ready.catalog.sources[:4]})
    users = tmp_path / "users.txt"
    users.write_text(FIRST)
    with pytest.raises(BadInput, match=r"found tables quarantine_profile, quarantine_search, source_profile, source_search, which .* has no source"):
        forget_users.run(replace(ready, catalog=few, forget_key=str(key_file(tmp_path))), users, tmp_path / "a.json")
    assert ready.lake.read("forgotten").isEmpty()


def test_ids_are_compared_without_what_pads_them(spark: SparkSession) -> None:
    """White space of every kind, control characters and byte order marks at the ends; nothing inside."""
    rows = spark.createDataFrame([(" a b\t",), ("\u00a0\ufeffu1\x07\u200b",), ("  ",), (None,)], "user_id string")
    assert [row[0] for row in rows.select(plain(F.col("user_id"))).collect()] == ["a b", "u1", None, None]


def test_words_of_a_torn_line(spark: SparkSession) -> None:
    """Ids with separators of JSON or CSV in them too, and no piece of an id for one."""
    rows = spark.createDataFrame([('{"user": "urn:u:1", "n',), ("3,a b|c,u10",), (None,)], "line string")
    json_line, csv_line, none = (set(row[0]) for row in rows.select(words(F.col("line"))).collect())
    assert {"urn:u:1", "user"} <= json_line
    assert {"a b", "c", "u10", "3"} <= csv_line
    assert "u1" not in csv_line
    assert none == set()


def test_rows_are_marked_by_keyed_hash(spark: SparkSession) -> None:
    """A clean id, a padded one, one in a torn line; each row comes once."""
    secret = Key(secret=b"k" * 32)
    torn = f'{{"user": "{TORN}", "twice": "{TORN}'
    rows = [(("u1", None), "u1"), (("u2", None), "u2"), ((" u2", None), " u2"), ((None, torn), None), ((None, "nobody's"), None), ((None, None), None)]
    checked = spark.createDataFrame(rows, "raw struct<user: string, _corrupt_record: string>, user_id string")
    forgotten = spark.createDataFrame([(secret.hmac_of(user),) for user in ("u2", TORN)], "hmac string")
    found = {(row.raw["_corrupt_record"] or row.user_id): row.forgotten for row in marked_by(checked, forgotten, secret).collect()}
    assert found == {"u1": False, "u2": True, " u2": True, torn: True, "nobody's": False, None: False}
    assert marked_by(checked, forgotten, secret).count() == len(rows)


def test_a_row_without_an_id_in_its_column_is_theirs_by_any_other(spark: SparkSession, default_catalog: Catalog) -> None:
    """A producer that names the field otherwise in some rows is no way back; a removal finds those that came before."""
    secret = Key(secret=b"k" * 32)
    schema = "raw struct<uid: string, user: string>, user_id string"
    checked = spark.createDataFrame([((None, "u1 "), None), ((" ", "u1"), " "), (("u2", "u1"), "u2"), ((None, "u3"), None)], schema)
    forgotten = spark.createDataFrame([(secret.hmac_of("u1"),)], "hmac string")
    found = [(row.raw.uid, row.raw.user, row.forgotten) for row in marked_by(checked, forgotten, secret).collect()]
    assert sorted(found, key=str) == sorted([(None, "u1 ", True), (" ", "u1", True), ("u2", "u1", False), (None, "u3", False)], key=str)
    table = next(table for table in tables_with_ids(default_catalog) if table.name == "quarantine_bill")
    maps = [({"uid": row.raw.uid, "user": row.raw.user}, date(2024, 1, 1)) for row in checked.collect()]
    refused = spark.createDataFrame(maps, "raw map<string,string>, delivered_ds date")
    assert table.found(refused, spark.createDataFrame([("u1",)], "user_id string")).count() == 2


def test_ids_come_from_text_csv_and_parquet(spark: SparkSession, tmp_path: Path) -> None:
    """Twice counts once, empty lines don't count; a CSV may have other columns."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfu1\r\n\nu2 \nu1\n")
    (tmp_path / "a.csv").write_text('name,user_id\n"x, y",u1\nz," u2"\n')
    spark.createDataFrame([("u1",), ("u2",), (None,)], "user_id string").coalesce(1).write.parquet(str(tmp_path / "out"))
    next((tmp_path / "out").glob("*.parquet")).rename(tmp_path / "a.parquet")
    for name in ("a.txt", "a.csv", "a.parquet"):
        assert sorted(row.user_id for row in read_ids(spark, tmp_path / name).collect()) == ["u1", "u2"], name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\n \n", "found no id"),
        ("a.txt", b"a\n\xff\xfe", "found bytes that are not UTF-8"),
        ("a.txt", b"a\nsecret\0id\n", "line 2: found a NUL"),
        ("a.csv", b"user,name\nsecret,x\n", "found 0 columns user_id among 2"),
        ("a.csv", b"user_id\n", "found no id"),
        ("a.parquet", b"PAR1 secret", "can't be read"),
        ("a.zip", b"secret", "found .zip; expected .txt"),
        ("a*.txt", b"secret", r"found one of .* in the path"),
    ],
)
def test_a_file_without_ids_is_refused(spark: SparkSession, tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """Nothing is forgotten by mistake, and no id is repeated in the message."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said) as refused:
        read_ids(spark, tmp_path / name)
    assert "secret" not in str(refused.value)


def test_a_machine_that_can_t_read_ids_is_not_their_fault(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another try may end otherwise."""
    (tmp_path / "ids.txt").write_text("u1\n")

    def failing(*_: object) -> None:
        raise PySparkException("java.io.IOException: No space left on device")

    monkeypatch.setattr(ids_to_forget, "_values", failing)
    with pytest.raises(PySparkException) as caught:
        read_ids(spark, tmp_path / "ids.txt")
    assert "disk full" in str(infrastructure_of(caught.value))


def test_a_file_that_is_not_there_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    """With what was expected."""
    with pytest.raises(BadInput, match=r"no such file; expected \.txt"):
        read_ids(spark, tmp_path / "none.txt")


def test_init_brings_an_earlier_lakehouse_s_sum_up_to_date(ready: Context) -> None:
    """The constraint of `deliveries` without the fourth outcome is replaced; a second time nothing is."""
    path = ready.lake.path("deliveries")
    ready.spark.sql(f"ALTER TABLE delta.`{path}` DROP CONSTRAINT outcomes_add_up")
    ready.spark.sql(f"ALTER TABLE delta.`{path}` ADD CONSTRAINT outcomes_add_up CHECK (rows_in = clean + quarantined + duplicates)")
    init(ready)
    properties = ready.spark.sql(f"SHOW TBLPROPERTIES delta.`{path}`").collect()
    assert "forgotten" in {row.key: row.value for row in properties}["delta.constraints.outcomes_add_up"]
    version = ready.lake.version("deliveries")
    init(ready)
    assert ready.lake.version("deliveries") == version
