"""Parquet files through Petastorm: bytes stay bytes, every row group comes once, and a bad file is named."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from u2qt_model import FeatureLayout
from u2qt_model.errors import BatchError, StreamError
from u2qt_model.stream import StreamUnit, _legacy_warnings_silenced, petastorm_url, read_files, read_units, row_group_rows, units_of

Columns = dict[str, np.ndarray[Any, Any]]
MakeColumns = Callable[..., Columns]
Write = Callable[..., str]

TEXTS = [
    b"a\x00b\x00",
    b"",
    "paid \U0001f600\U0001f1fa\U0001f1f8 caf\u00e9".encode(),
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u202eabc".encode(),
    b"x" * 2**20,
    b"\xff\xfe not UTF-8",
    b"' \"\\\n\r\t",
]


@pytest.fixture
def columns(make_columns: MakeColumns) -> Columns:
    """20 users: 5 row groups of 4."""
    return make_columns(20)


@pytest.fixture
def url(tmp_path: Path, columns: Columns, write_parquet: Write) -> str:
    return write_parquet(tmp_path / "part-0.parquet", columns)


def _user_ids(units: list[StreamUnit], layout: FeatureLayout) -> list[bytes]:
    batches = list(read_units(units, layout))
    return [user for batch in batches if batch.user_id is not None for user in batch.user_id]


def test_awkward_texts_come_back_byte_equal(tmp_path: Path, make_columns: MakeColumns, write_parquet: Write, layout: FeatureLayout) -> None:
    """NUL, empty, emoji, right to left, a megabyte, bytes that aren't UTF-8."""
    columns = make_columns(len(TEXTS))
    columns["bill_text"][:] = TEXTS
    columns["user_id"][:] = TEXTS
    batches = list(read_files([write_parquet(tmp_path / "part.parquet", columns, 3)], layout))
    assert [text for batch in batches for text in batch.events("bill").texts] == TEXTS
    assert [user for batch in batches if batch.user_id is not None for user in batch.user_id] == TEXTS


@pytest.mark.parametrize("row_group_size", [1, 4, 100])
def test_all_columns_come_back(tmp_path: Path, columns: Columns, write_parquet: Write, layout: FeatureLayout, row_group_size: int) -> None:
    """Keys, profile and event arrays; also from row groups of one row."""
    written = write_parquet(tmp_path / "part.parquet", columns, row_group_size)
    batches = list(read_files([written], layout, events=True))
    assert [batch.num_users for batch in batches] == list(row_group_rows(written))
    for name, parts in {
        "row_hash": [batch.row_hash for batch in batches],
        "available_at": [batch.available_at for batch in batches],
        "profile_values": [batch.profile("profile").values for batch in batches],
        "profile_ids": [batch.profile("profile").ids for batch in batches],
        "bill_event_ids": [batch.events("bill").event_ids.reshape(batch.num_users, -1) for batch in batches],  # type: ignore[union-attr]
    }.items():
        np.testing.assert_array_equal(np.concatenate(parts), columns[name])  # type: ignore[arg-type]
    assert sum(batch.events("search_2").present.sum() for batch in batches) == (columns["search_2_count"] > 0).sum()


def test_event_arrays_and_keys_are_read_on_request(url: str, layout: FeatureLayout) -> None:
    """A text tokenizer reads neither."""
    batch = next(iter(read_files([url], layout, keys=())))
    assert (batch.user_id, batch.row_hash, batch.events("bill").event_ids) == (None, None, None)


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_shards_cover_each_row_group_once(url: str, columns: Columns, layout: FeatureLayout, shards: int) -> None:
    """Shard j of n holds row groups j, j + n, ..., in order."""
    groups = np.array_split(columns["user_id"], 5)
    for shard in range(shards):
        expected = np.concatenate(groups[shard::shards])
        unit = StreamUnit(url=url, shard=shard, shards=shards, rows=len(expected))
        assert _user_ids([unit], layout) == expected.tolist()


def test_units_of_a_file_are_its_row_groups(url: str, columns: Columns, layout: FeatureLayout) -> None:
    """Together, in order, they are the file."""
    units = units_of(url)
    assert [(unit.shard, unit.shards, unit.rows) for unit in units] == [(i, 5, 4) for i in range(5)]
    assert _user_ids(list(units), layout) == columns["user_id"].tolist()


def test_files_are_read_in_the_order_given(tmp_path: Path, make_columns: MakeColumns, write_parquet: Write, layout: FeatureLayout) -> None:
    """Names don't decide."""
    urls = [write_parquet(tmp_path / f"{name}.parquet", make_columns(3, seed)) for name, seed in (("z", 1), ("a", 2))]
    found = [batch.user_id[0] for batch in read_files(urls, layout) if batch.user_id is not None]
    assert found == [b"user-1-0", b"user-2-0"]


@pytest.mark.parametrize("folder", ["with space", "50%", "%20", "caf\u00e9", "\u65e5\u672c", "a+b", "ds=2026-01-02", "it's", "a[1]*"])
def test_awkward_paths_are_read(tmp_path: Path, columns: Columns, write_parquet: Write, layout: FeatureLayout, folder: str) -> None:
    """Percent-encoded as Spark gives them."""
    (tmp_path / folder).mkdir()
    written = write_parquet(tmp_path / folder / "part 0.parquet", columns)
    assert _user_ids(list(units_of(written)), layout) == columns["user_id"].tolist()


def test_wrong_row_count_is_refused(url: str, layout: FeatureLayout) -> None:
    """More or fewer than the unit promised."""
    for rows in (3, 5):
        with pytest.raises(StreamError, match=rf"part-0\.parquet \(shard 1 of 5\): found 4 rows, expected {rows}"):
            list(read_units([StreamUnit(url=url, shard=1, shards=5, rows=rows)], layout))
    with pytest.raises(StreamError, match=r"part-0\.parquet: found 20 rows, expected 21"):
        list(read_units([StreamUnit(url=url, rows=21)], layout))


def test_more_shards_than_row_groups_is_refused(url: str, layout: FeatureLayout) -> None:
    """An empty unit would hide a lost row group."""
    with pytest.raises(StreamError, match=r"part-0\.parquet \(shard 5 of 6\).*fewer row groups"):
        list(read_units([StreamUnit(url=url, shard=5, shards=6)], layout))


@pytest.mark.parametrize("kept", [0, 3, 8, 0.5, -1])
def test_truncated_file_is_refused(tmp_path: Path, url: str, layout: FeatureLayout, kept: float) -> None:
    """By the footer's reader and by Petastorm; both name the file."""
    path = tmp_path / "part-0.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    for read in (lambda: read_files([url], layout), lambda: read_units([StreamUnit(url=url)], layout)):
        with pytest.raises(StreamError, match=r"part-0\.parquet.*expected"):
            list(read())


def test_damaged_page_is_refused(tmp_path: Path, url: str, layout: FeatureLayout) -> None:
    """The footer is whole, a compressed page isn't."""
    path = tmp_path / "part-0.parquet"
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    with pytest.raises(StreamError, match=r"part-0\.parquet.*can't be read"):
        list(read_units([StreamUnit(url=url)], layout))


def test_file_that_is_no_parquet_is_refused(tmp_path: Path, layout: FeatureLayout) -> None:
    """So are a missing file and a folder."""
    (tmp_path / "text.parquet").write_text("user_id,row_hash\n" * 100)
    (tmp_path / "folder.parquet").mkdir()
    for name in ("text.parquet", "missing.parquet", "folder.parquet"):
        written = (tmp_path / name).as_uri()
        for read in (lambda written=written: read_files([written], layout), lambda written=written: read_units([StreamUnit(url=written)], layout)):
            with pytest.raises(StreamError, match=name):
                list(read())


def test_foreign_parquet_is_refused(tmp_path: Path, layout: FeatureLayout) -> None:
    """A table of something else."""
    pq.write_table(pa.table({"animal": ["cat"], "legs": [4]}), tmp_path / "foreign.parquet")
    with pytest.raises(StreamError, match=r"foreign\.parquet.*user_id"):
        list(read_files([(tmp_path / "foreign.parquet").as_uri()], layout))


def test_missing_column_is_refused(tmp_path: Path, columns: Columns, write_parquet: Write, layout: FeatureLayout) -> None:
    """File and column are named."""
    del columns["profile_values"]
    with pytest.raises(StreamError, match=r"part\.parquet: profile_values: column missing"):
        list(read_files([write_parquet(tmp_path / "part.parquet", columns)], layout))


def test_null_and_ragged_lists_are_refused(tmp_path: Path, columns: Columns, layout: FeatureLayout, write_parquet: Write) -> None:
    """A list column that isn't one length in every row."""
    write_parquet(tmp_path / "part.parquet", columns)
    table = pq.read_table(tmp_path / "part.parquet")
    place = table.column_names.index("profile_values")
    for rows in ([[1.0, 2.0, 3.0]] * 19 + [[1.0]], [[1.0, 2.0, 3.0]] * 19 + [None]):
        spoilt = table.set_column(place, "profile_values", pa.array(rows, pa.list_(pa.float32())))
        pq.write_table(spoilt, tmp_path / "spoilt.parquet")
        with pytest.raises((StreamError, BatchError), match=r"spoilt\.parquet|profile_values"):
            list(read_files([(tmp_path / "spoilt.parquet").as_uri()], layout))


def test_file_without_rows_gives_no_users(tmp_path: Path, columns: Columns, write_parquet: Write, layout: FeatureLayout) -> None:
    """Spark may write one for an empty partition: a row group of no rows, or no row group."""
    empty = write_parquet(tmp_path / "empty.parquet", {name: column[:0] for name, column in columns.items()})
    pq.ParquetWriter(tmp_path / "none.parquet", pq.read_schema(tmp_path / "empty.parquet")).close()
    none = (tmp_path / "none.parquet").as_uri()
    assert units_of(none) == ()
    for read in (read_files([empty, none], layout), read_units([StreamUnit(url=empty), StreamUnit(url=none)], layout)):
        assert sum(batch.num_users for batch in read) == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("file:/a/b", "file:///a/b"),
        ("file:///a%20b/50%25", "file:///a b/50%"),
        ("file:///caf%C3%A9", "file:///caf\u00e9"),
        ("hdfs://name:8020/a%20b", "hdfs://name:8020/a b"),
    ],
)
def test_urls_of_spark_become_petastorms(given: str, expected: str) -> None:
    """Petastorm takes paths literally."""
    assert petastorm_url(given) == expected


@pytest.mark.parametrize("wrong", ["/a/b", "a.parquet", "file://host/a", "file:a", "file:////a", "file:///a%23b", "file:///a%3Fb", "file:///a;b"])
def test_urls_that_petastorm_cannot_open_are_refused(wrong: str) -> None:
    """No scheme, another host, characters that end a path."""
    with pytest.raises(StreamError, match="found"):
        petastorm_url(wrong)


def test_only_the_known_warnings_are_silenced() -> None:
    """Another FutureWarning still arrives."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with _legacy_warnings_silenced():
            warnings.warn("Passing 'use_legacy_dataset' is deprecated", FutureWarning, stacklevel=1)
            with pytest.raises(FutureWarning, match="another"):
                warnings.warn("another", FutureWarning, stacklevel=1)
