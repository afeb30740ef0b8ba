"""Bad input, stage by stage: the message names the thing, what was found and the way out; nothing published changes."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import Row
from pyspark.sql import functions as F

from jobs import build_user_features, encode_users, init_lakehouse, train_tokenizer, validate_sources
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.errors import BadInput, GateRefused, Infrastructure, U2qtError
from jobs.machine_faults import infrastructure_of
from jobs.session import check_java
from schemas.catalog_files import load_catalog
from schemas.keys import Days
from schemas.source_events import source_table_name
from u2qt_model import presets
from u2qt_model.errors import ModelError

LAST = Days(date(2024, 1, 3), date(2024, 1, 3))
Damage = Callable[[Path], None]


@pytest.fixture
def damaged(writable: Context, simulated: Path, tmp_path: Path) -> Iterator[Context]:
    """A published lakehouse over a copy of its raw input; afterwards its token table must be what it was."""
    raw = tmp_path / "raw"
    shutil.copytree(simulated / "raw", raw)
    before = writable.lake.version("user_tokens"), writable.lake.version("user_features")
    yield replace(writable, input_root=str(raw))
    assert (writable.lake.version("user_tokens"), writable.lake.version("user_features")) == before


def remove(day: Path) -> None:
    shutil.rmtree(day)


def truncate(day: Path) -> None:
    files = list(day.rglob("*.parquet"))
    assert files, f"{day} has files to cut"
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        file.with_name(f".{file.name}.crc").unlink(missing_ok=True)


def replace_by_text(day: Path) -> None:
    for file in day.iterdir():
        file.unlink()
    (day / "part-0.parquet").write_text("these are no parquet bytes")


def replace_by_foreign(day: Path) -> None:
    for file in day.iterdir():
        file.unlink()
    pq.write_table(pa.table({"weather": ["rain"]}), day / "part-0.parquet")


def empty(day: Path) -> None:
    table = pq.read_table(next(day.glob("*.parquet")), partitioning=None)
    for file in day.iterdir():
        file.unlink()
    pq.write_table(table.slice(0, 0), day / "part-0.parquet")


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (remove, BadInput, "source bill, 2024-01-03: nothing delivered at"),
        (truncate, BadInput, "source bill.*expected whole"),
        (replace_by_text, BadInput, "source bill.*expected whole"),
        (replace_by_foreign, BadInput, "source bill.*no column.*found weather"),
        (empty, GateRefused, "source bill, 2024-01-03: 0 rows delivered, expected at least 1"),
    ],
)
def test_a_bad_delivery_stops_the_day(damaged: Context, damage: Damage, error: type[U2qtError], said: str) -> None:
    """A missing, truncated, foreign or empty delivery of one source."""
    damage(Path(damaged.input_root) / "bill" / "delivered_ds=2024-01-03")
    with pytest.raises(error, match=f"(?s){said}"):
        validate_sources.run(damaged, LAST)


def test_a_damaged_file_of_the_lakehouse_is_not_the_owner_s_fault(damaged: Context) -> None:
    """Exit 30 with its path, and the way out that it names is one: forced, the day's clean rows are written anew."""
    source = next(s for s in damaged.catalog.sources if s.name == "bill")
    table = source_table_name(source.name)
    truncate(Path(damaged.lake.path(table)) / f"delivered_ds={LAST.first}")
    with pytest.raises(Exception, match="FAILED_READ_FILE") as caught, validate_sources.naming_the_source(damaged, source, LAST):
        damaged.lake.read(table).collect()
    assert f"can't be read, damaged or gone at {damaged.lake.path(table)}/delivered_ds={LAST.first}/" in str(infrastructure_of(caught.value))
    validate_sources.run(damaged, LAST, force=True)
    assert damaged.lake.read(table).collect()


def test_features_and_staged_rows_that_can_t_be_read_are_made_again(writable: Context) -> None:
    """As docs/operations.md has it: by the stage that wrote them, with `--force`."""
    kept = {"user_features": ("user_id", "row_hash"), "staged_user_tokens": ("user_id", "row_hash", "bill_codes")}

    def rows(table: str) -> list[Row]:
        found = writable.lake.read(table).where(F.col("ds") == F.lit(LAST.first))
        return found.select(*kept[table]).orderBy("user_id").collect()

    before = {table: rows(table) for table in kept}
    for table in kept:
        truncate(Path(writable.lake.path(table)) / f"ds={LAST.first}")
    with pytest.raises(Infrastructure, match=r"can't be read, damaged or gone at .*/user_features/"):
        encode_users.run(writable, LAST, "v1", force=True)
    build_user_features.run(writable, LAST, force=True)
    encode_users.run(writable, LAST, "v1", force=True)
    assert {table: rows(table) for table in kept} == before
    assert before["user_features"]


def test_a_day_after_the_last_delivered_one_is_refused(damaged: Context) -> None:
    """`--ds` may be right and the delivery late: both ways out stand in the message."""
    with pytest.raises(BadInput, match="may lie after the last delivered one"):
        validate_sources.run(damaged, Days(date(2024, 1, 4), date(2024, 1, 4)))


def test_an_input_root_that_is_not_there_is_refused(damaged: Context) -> None:
    """The path that was looked for stands in the message."""
    with pytest.raises(BadInput, match="nothing delivered at /nowhere/"):
        validate_sources.run(replace(damaged, input_root="/nowhere"), LAST)


def tampered(context: Context, tmp_path: Path, change: Callable[[Path], None]) -> Context:
    """The lakehouse with v1's checkpoint replaced by a changed copy."""
    known = context.lake.read("tokenizers").collect()[0].asDict()
    folder = tmp_path / "checkpoint"
    shutil.copytree(known["checkpoint"], folder)
    change(folder)
    frame = context.spark.createDataFrame([known | {"checkpoint": str(folder)}], context.lake.read("tokenizers").schema)
    path = context.lake.path("tokenizers")
    frame.write.format("delta").mode("overwrite").save(path)
    return context


def flip_a_byte(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("change", [flip_a_byte, remove_weights])
def test_a_changed_checkpoint_is_refused(damaged: Context, tmp_path: Path, change: Callable[[Path], None]) -> None:
    """One flipped bit is enough; the file is named."""
    context = tampered(damaged, tmp_path, change)
    with pytest.raises((ModelError, BadInput), match=r"model\.safetensors"):
        encode_users.run(context, LAST, "v1")


def test_a_checkpoint_of_another_fingerprint_is_refused(damaged: Context, tmp_path: Path) -> None:
    """A sound checkpoint in the place of the registered one."""
    other = train_tokenizer.run(damaged, LAST, "v2", presets.tiny(seed=5), checkpoints=tmp_path)

    def swap(folder: Path) -> None:
        shutil.rmtree(folder)
        shutil.copytree(other.checkpoint, folder)

    known = damaged.lake.read("tokenizers").where("tokenizer_version = 'v1'").collect()[0].asDict()
    damaged.spark.createDataFrame([known], damaged.lake.read("tokenizers").schema).write.format("delta").mode("overwrite").save(damaged.lake.path("tokenizers"))
    context = tampered(damaged, tmp_path, swap)
    with pytest.raises((ModelError, BadInput), match="as registered"):
        encode_users.run(context, LAST, "v1")


def test_a_checkpoint_for_another_catalog_is_refused(damaged: Context) -> None:
    """The features that a tokenizer knows are those of its catalog."""
    other = load_catalog(Path(__file__).parents[2] / "examples" / "stackexchange")
    with pytest.raises((ModelError, BadInput), match="catalog"):
        encode_users.run(replace(damaged, catalog=other), LAST, "v1")


def test_a_version_is_never_given_twice(damaged: Context, tmp_path: Path) -> None:
    """The same name with another fingerprint is refused; the registered checkpoint stays."""
    before = damaged.lake.read("tokenizers").collect()
    with pytest.raises((ModelError, BadInput), match="v1: already registered with fingerprint"):
        train_tokenizer.run(damaged, LAST, "v1", presets.tiny(seed=5), checkpoints=tmp_path)
    assert damaged.lake.read("tokenizers").collect() == before


def test_a_lakehouse_that_can_t_be_written_is_named(context: Context, tmp_path: Path) -> None:
    """A file in the path's place, as root may write anywhere else."""
    (tmp_path / "file").write_text("")
    lake = Lakehouse(context.spark, str(tmp_path / "file" / "lake"))
    with pytest.raises(Infrastructure, match=r"lakehouse .*can't be written"):
        init_lakehouse.run(replace(context, lake=lake))


def test_a_lakehouse_that_was_never_made_is_refused(context: Context) -> None:
    """The message says what to run."""
    with pytest.raises(BadInput, match="run `u2qt init"):
        validate_sources.run(context, LAST)


def test_without_java_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither JAVA_HOME nor a java on the PATH."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Infrastructure, match=r"found none.*openjdk-17"):
        check_java()


@pytest.mark.parametrize(("version", "found"), [("1.8.0_292", "8"), ("11.0.2", "11"), ("nonsense", "unknown")])
def test_the_wrong_java_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, found: str) -> None:
    """A java that says another version than 17 or 21."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(Infrastructure, match=f"found version {found} at .*expected 17 or 21"):
        check_java()
