"""Maintenance: old days go for good, small files come together, dead files go once nobody reads them, and no kept row changes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import filelock
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from jobs import (
    TOKEN_STAGES,
    audit_tokens,
    backfill_days,
    build_user_features,
    cli,
    encode_users,
    leases,
    maintain_lakehouse,
    plan_days,
    publish_tokens,
    retention,
    validate_sources,
)
from jobs.context import Context
from jobs.day_states import summed
from jobs.delta_tables import Where
from jobs.errors import BadInput, GateRefused, Infrastructure
from jobs.leases import Lease
from jobs.maintain_lakehouse import Horizon
from jobs.recorded_removals import record_again, whole_days
from jobs.retention import Keep
from jobs.show_maintenance import render
from jobs.table_files import compact, use
from schemas.keys import Days
from schemas.lakehouse import tables

FIRST, SECOND, LAST = DAYS = Days(date(2024, 1, 1), date(2024, 1, 3))
ON_TIME = datetime(2023, 1, 1, tzinfo=UTC)  # no row is late by then
KEEP_ONE = Keep(source_days=1, feature_days=1, staged_days=1)


@pytest.fixture
def published(published_few: Context) -> Context:
    """Three sources are enough here, and half the time."""
    return published_few


@pytest.fixture
def reader() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which may hold a lease."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def same_session(monkeypatch: pytest.MonkeyPatch, writable: Context) -> None:
    """Commands use the tests' session and catalog, and don't stop the session."""
    monkeypatch.setattr("jobs.cli_options.load_catalog", lambda folder: writable.catalog)
    monkeypatch.setattr("jobs.session.build_session", lambda master=None, conf=None: writable.spark)
    monkeypatch.setattr(type(writable.spark), "stop", lambda self: None)


def lease_of(process: subprocess.Popen[bytes], context: Context, purpose: str = "sql") -> Lease:
    """What `process` would have written when it began to read, just now."""
    now = datetime.now(UTC)
    lease = Lease(
        lease_id="a" * 32,
        order=1,
        run_id="theirs",
        purpose=purpose,
        exclusive=False,
        host=leases.this_host(),
        processes=((process.pid, leases._start(process.pid)),),
        started_at=now,
        expires_at=now + timedelta(minutes=5),
    )
    leases._write(context.lake.own_folder("leases"), lease)
    return lease


def deleted(context: Context, table: str = "user_tokens") -> int:
    """Deletes a day, so that its files are dead; returns the version before."""
    version = context.lake.version(table)
    context.spark.sql(f"DELETE FROM delta.`{context.lake.path(table)}` WHERE ds = '2024-01-02'").collect()
    return version


def sums(context: Context, *names: str) -> dict[str, list[tuple[object, ...]]]:
    """Rows and hashes of each day of each table."""
    return {name: sorted(tuple(row) for row in summed(context.lake.read(name), "ds").collect()) for name in names}


def due(context: Context, asked: Days = DAYS) -> list[tuple[date, str, str]]:
    return [(e.ds, e.stage, e.reason) for e in plan_days.run(context, asked, cutoff=ON_TIME)]


def data_files(context: Context) -> dict[str, tuple[int, int]]:
    """Size and time of every file of the lakehouse but our own notes; counted without Spark."""
    files = [path for path in Path(context.lake.root).rglob("*") if path.is_file() and "_u2qt" not in path.parts]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_a_vacuum_keeps_what_a_reader_holds_until_its_process_is_dead(writable: Context, reader: subprocess.Popen[bytes]) -> None:
    """The pinned version is read whole while the other process lives; the same vacuum takes its files when it was killed."""
    lease = lease_of(reader, writable)
    version = deleted(writable)
    pinned = writable.lake.read("user_tokens", version).where("ds = '2024-01-02'")
    done = maintain_lakehouse.run(writable, retain_hours=0)
    assert (done.horizon.hours, done.horizon.reader and done.horizon.reader.run_id) == (1, "theirs")
    assert f"files of the last 1 h are kept: {lease} reads since then" in str(done.horizon)
    assert len(pinned.collect()) == writable.lake.read("user_features").where("ds = '2024-01-02'").count() > 0
    reader.kill()
    reader.wait()
    done = maintain_lakehouse.run(writable, retain_hours=0)
    assert done.horizon == Horizon(hours=0)
    with pytest.raises((PySparkException, Py4JJavaError), match=r"FILE_NOT_EXIST|FileNotFound|does not exist"):
        writable.lake.read("user_tokens", version).where("ds = '2024-01-02'").collect()


@pytest.mark.usefixtures("same_session")
@pytest.mark.parametrize("command", [("promote", "v1"), ("roll-back", "--reason", "as it was")])
def test_a_promotion_waits_for_runs_under_way(
    writable: Context, reader: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """A day that a run publishes under the version that it began with would be missing in the current view, and no plan would say so."""
    monkeypatch.setattr(leases, "ALONE_PATIENCE", 0.3)
    lease_of(reader, writable, "run day")
    assert cli.call(["tokenizer", *command, "--root", writable.lake.root]) == 30
    assert "needs the lakehouse for itself, but `run day` (run theirs" in capsys.readouterr().err
    assert cli.call(["tokenizer", *command, "--now", "--root", writable.lake.root]) == (0 if command[0] == "promote" else 20), "v1 is current, none was before"


@pytest.mark.usefixtures("same_session")
def test_without_retention_the_lakehouse_must_be_empty_of_others(
    writable: Context, reader: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 30 after its patience, with nothing removed; with retention, and on a dry run, it works beside a reader."""
    monkeypatch.setattr(leases, "ALONE_PATIENCE", 0.3)
    version, command = deleted(writable), ["maintain", "--root", writable.lake.root, "--retain-hours"]
    lease_of(reader, writable)
    assert cli.call([*command, "0"]) == 30
    assert "maintain: needs the lakehouse for itself, but `sql` (run theirs" in capsys.readouterr().err
    assert cli.call([*command, "0", "--dry-run"]) == 0
    assert cli.call([*command, "1"]) == 0
    assert len(writable.lake.read("user_tokens", version).collect()) > 0
    reader.kill()
    reader.wait()
    assert cli.call([*command, "0"]) == 0
    assert "nobody else is in the lakehouse" in capsys.readouterr().out
    assert use(writable.lake, "user_tokens").dead_files == 0


def test_compaction_keeps_rows_and_stages_skip_afterwards(writable: Context) -> None:
    """Few files, the same sums, nothing due; features and stage keep their very files; row counts stay in Delta's statistics."""
    lake, names = writable.lake, ("user_tokens", "user_features", "source_search", "staged_user_tokens")
    second = Where(days=Days(SECOND, SECOND))
    lake.replace("user_tokens", lake.read("user_tokens").where("ds = '2024-01-02'").repartition(6), second, {})
    before, ledger = sums(writable, *names), lake.read("runs").count()
    runs = len(lake.active_files("runs", lake.version("runs")))
    untouched = {name: lake.active_files(name, lake.version(name)) for name in maintain_lakehouse.NOT_COMPACTED}
    done = maintain_lakehouse.run(writable, small_files=2)
    assert done.compacted["user_tokens"] == (6, 1)
    assert done.compacted["runs"][0] == runs > 2
    assert done.compacted["runs"][1] == 1
    assert sums(writable, *names) == before
    assert lake.read("runs").count() == ledger + 1
    assert {name: lake.active_files(name, lake.version(name)) for name in maintain_lakehouse.NOT_COMPACTED} == untouched
    assert (
        sum(file.rows for file in lake.active_files("user_tokens", lake.version("user_tokens"), second)) == lake.read("user_tokens").where(second.sql()).count()
    )
    assert due(writable) == []
    after = replace(writable, run_id="afterwards")
    for stage in (validate_sources, build_user_features, encode_users, audit_tokens, publish_tokens):
        stage.run(after, DAYS)  # type: ignore[attr-defined]
    assert {row.status for row in lake.read("runs").where("run_id = 'afterwards'").collect()} == {"skipped"}
    assert maintain_lakehouse.run(writable, small_files=8).compacted == {}


def test_a_compaction_between_audit_and_publish_leaves_the_stage_alone(writable: Context) -> None:
    """An audit is of files: were the stage compacted, the day would have to be audited again."""
    lake, second = writable.lake, Days(SECOND, SECOND)
    rows = lake.read("staged_user_tokens").where("ds = '2024-01-02'").repartition(4)
    lake.replace("staged_user_tokens", rows, Where(days=second), {})
    audit_tokens.run(writable, second, "v1", force=True)
    maintain_lakehouse.run(writable, small_files=1)
    publish_tokens.run(writable, second, "v1", force=True)
    compact(lake, "staged_user_tokens", Where(days=second), {})
    with pytest.raises(GateRefused, match="staged again"):
        publish_tokens.run(writable, second, "v1", force=True)


def test_days_older_than_those_kept_go_and_are_not_planned(writable: Context) -> None:
    """Clean rows whose day and delivery are old, quarantine, features and published stage; tokens, late deliveries and the profile stay."""
    lake = writable.lake
    tokens = sums(writable, "user_tokens")
    done = maintain_lakehouse.run(writable, KEEP_ONE)
    assert {removed.table for removed in done.removed} >= {"source_search", "quarantine_search", "user_features", "staged_user_tokens"}
    assert all(removed.through == SECOND and removed.rows > 0 for removed in done.removed)
    for table in ("user_features", "staged_user_tokens"):
        assert {row.ds for row in lake.read(table).select("ds").distinct().collect()} == {LAST}
    rows = lake.read("source_bill").select("ds", "delivered_ds").distinct().collect()
    assert all(row.ds == LAST or row.delivered_ds == LAST for row in rows)
    assert {row.ds for row in rows} > {LAST}, "rows of the 2nd that came on the 3rd are of a kept delivery"
    assert {row.ds for row in lake.read("source_profile").select("ds").distinct().collect()} >= {FIRST, SECOND}, "its days look back 30 days"
    assert sums(writable, "user_tokens") == tokens
    assert retention.removed_through(writable)["user_features"] == SECOND
    assert due(writable) == []
    assert backfill_days.run(writable, DAYS, cutoff=ON_TIME) == 0
    after = replace(writable, run_id="afterwards")
    for stage in (validate_sources, build_user_features, encode_users, audit_tokens, publish_tokens):
        stage.run(after, Days(LAST, LAST))  # type: ignore[attr-defined]
    assert {row.status for row in lake.read("runs").where("run_id = 'afterwards'").collect()} == {"skipped"}
    assert maintain_lakehouse.run(writable, KEEP_ONE).removed == []


def test_no_stage_works_on_removed_days_but_by_force(writable: Context, published: Context) -> None:
    """Published rows would be replaced by fewer; with the raw deliveries read again the way that the message names leads back."""
    first = Days(FIRST, FIRST)
    maintain_lakehouse.run(writable, KEEP_ONE)
    with pytest.raises(BadInput, match=r"features of 2024-01-01: clean rows of days up to 2024-01-02 were removed"):
        build_user_features.run(writable, first)
    for stage in (encode_users, audit_tokens):
        with pytest.raises(BadInput, match=r"user_features, 2024-01-01: its rows were removed"):
            stage.run(writable, first)  # type: ignore[attr-defined]
    with pytest.raises(GateRefused, match="staged again"):
        publish_tokens.run(writable, first, force=True)
    assert sums(writable, "user_tokens") == sums(published, "user_tokens")
    validate_sources.run(writable, DAYS)
    build_user_features.run(writable, first, force=True)
    encode_users.run(writable, first)
    for table in ("user_features", "staged_user_tokens"):
        ours, theirs = (sums(context, table)[table][0] for context in (writable, published))
        assert ours == theirs


def test_a_removal_is_noted_before_it_happens(writable: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, it leaves no day that looks due; the next one goes on."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(maintain_lakehouse, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            maintain_lakehouse.run(writable, KEEP_ONE)
    assert due(writable) == []
    assert retention.removed_through(writable)["source_search"] == SECOND
    assert {removed.table for removed in maintain_lakehouse.run(writable, KEEP_ONE).removed} > {"user_features"}


def test_tokens_go_only_when_asked_and_never_within_90_days(writable: Context) -> None:
    """Counted back from the promoted version's newest published day; the plan doesn't ask for them again."""
    lake, old = writable.lake, LAST - timedelta(days=100)
    rows = lake.read("user_tokens").where("ds = '2024-01-03'").withColumn("ds", F.lit(old))
    lake.replace("user_tokens", rows, Where(days=Days(old, old)), {})
    assert maintain_lakehouse.run(writable, Keep(token_days=101), dry_run=True).removed == []
    done = maintain_lakehouse.run(writable, Keep(token_days=90))
    assert [(r.table, r.through) for r in done.removed] == [("user_tokens", LAST - timedelta(days=90))]
    assert {row.ds for row in lake.read("user_tokens").select("ds").distinct().collect()} == set(DAYS)
    assert due(writable) == []
    assert not {stage for ds, stage, _ in due(writable, Days(old, old)) if stage in TOKEN_STAGES}
    with pytest.raises(BadInput, match=r"--keep-token-days 89: expected 90 or more"):
        Keep(token_days=89)
    with pytest.raises(BadInput, match="found 0, expected 1 or more"):
        Keep(source_days=0)


def test_staged_days_that_are_not_published_stay(writable: Context) -> None:
    """A version in the shadow stages old days before it publishes them."""
    lake = writable.lake
    rows = lake.read("staged_user_tokens").where("ds = '2024-01-01'").withColumn("tokenizer_version", F.lit("v2"))
    lake.append("staged_user_tokens", rows, {})
    maintain_lakehouse.run(writable, Keep(staged_days=1))
    left = lake.read("staged_user_tokens").select("ds", "tokenizer_version").distinct().collect()
    assert {(row.ds, row.tokenizer_version) for row in left} == {(LAST, "v1"), (FIRST, "v2")}


def test_staged_days_that_wait_for_their_publish_stay(writable: Context) -> None:
    """Encoded anew since, they are what a gate or a person will publish."""
    lake = writable.lake
    lake.spark.sql(f"UPDATE delta.`{lake.path('staged_user_tokens')}` SET bill_codes = array(1S) WHERE ds = '{FIRST}'")
    maintain_lakehouse.run(replace(writable, run_id="house"), Keep(staged_days=1))
    assert {row.ds for row in lake.read("staged_user_tokens").select("ds").distinct().collect()} == {FIRST, LAST}


def test_a_removal_of_users_leaves_days_as_whole_as_a_retention_left_them(writable: Context) -> None:
    """Their staged rows are gone on purpose, and say nothing of a day that is published."""
    maintain_lakehouse.run(replace(writable, run_id="house"), Keep(staged_days=1))
    whole = whole_days(writable, DAYS)
    somebody = writable.lake.read("user_tokens").where(f"ds = '{FIRST}'").agg(F.min("user_id")).collect()[0][0]
    for table in ("user_features", "staged_user_tokens", "user_tokens"):
        writable.spark.sql(f"DELETE FROM delta.`{writable.lake.path(table)}` WHERE CAST(user_id AS STRING) = '{somebody}'").collect()
    assert record_again(replace(writable, run_id="removal"), whole) > 0
    assert due(writable) == []


@pytest.mark.parametrize("days", [50_000, 999_999_999])
def test_more_days_than_there_ever_were_keep_all(writable: Context, days: int) -> None:
    """A number that means for ever."""
    keep = Keep(source_days=days, feature_days=days, staged_days=days, token_days=days)
    assert maintain_lakehouse.run(writable, keep, dry_run=True).removed == []


def test_a_reader_older_than_delta_s_memory_keeps_every_file(writable: Context, reader: subprocess.Popen[bytes]) -> None:
    """What Delta removed longer ago it takes for a stray file, and deletes it whatever hours it is given."""
    deleted(writable)
    path = writable.lake.path("user_tokens")
    writable.spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.deletedFileRetentionDuration' = 'interval 0 hours')")  # as after a week
    files = sorted(Path(path.removeprefix("file://")).rglob("*.parquet"))
    assert files
    for file in files:
        os.utime(file, (0, 0))
    lease = lease_of(reader, writable)
    leases._write(writable.lake.own_folder("leases"), replace(lease, started_at=lease.started_at - timedelta(days=8)))
    done = maintain_lakehouse.run(writable)
    assert [file for file in files if not file.exists()] == []
    assert str(done.horizon).startswith("all replaced files are kept: `sql` (run theirs")
    with pytest.raises(BadInput, match="--retain-hours 169: expected at most 168"):
        maintain_lakehouse.run(writable, retain_hours=169)


def test_nothing_goes_where_nothing_is_published(ready: Context) -> None:
    """There is no day to count back from."""
    with pytest.raises(BadInput, match="no tokenizer is promoted and has published nothing"):
        maintain_lakehouse.run(ready, KEEP_ONE)


def test_a_profile_without_a_bound_to_its_look_back_keeps_every_row(published: Context) -> None:
    """With a bound it keeps that many days more than the others."""
    found = {removal.table: removal.through for removal in retention.removals(published, Keep(source_days=1))}
    assert (found["source_search"], found["source_profile"]) == (SECOND, SECOND - timedelta(days=30))
    sources = tuple(s.model_copy(update={"lookback_days": None}) if s.kind == "profile" else s for s in published.catalog.sources)
    unbounded = replace(published, catalog=published.catalog.model_copy(update={"sources": sources}))
    assert "source_profile" not in {removal.table for removal in retention.removals(unbounded, Keep(source_days=1))}


def test_a_dry_run_says_it_all_and_writes_nothing(writable: Context) -> None:
    """Not even a ledger row."""
    deleted(writable)
    before = data_files(writable)
    found = maintain_lakehouse.run(writable, KEEP_ONE, retain_hours=0, small_files=1, dry_run=True)
    assert data_files(writable) == before
    assert {removed.table for removed in found.removed} >= {"source_search", "user_features"}
    assert found.crowded["runs"] == 1
    assert found.after == {}
    assert found.before["user_tokens"].dead_files == 1


def test_disk_use_is_what_lies_there_and_is_kept_in_the_ledger(writable: Context) -> None:
    """Per table and in all, before and after."""
    deleted(writable)
    done = maintain_lakehouse.run(replace(writable, run_id="house"), KEEP_ONE, retain_hours=0)
    assert set(done.after) == {table.name for table in tables(writable.catalog)}
    lying = {path: size for path, (size, _) in data_files(writable).items() if "/user_tokens/" in path and not path.endswith(".parquet.crc")}
    lying = {path: size for path, size in lying.items() if not Path(path).name.startswith(".")}
    assert done.after["user_tokens"].bytes == sum(lying.values())
    assert done.after["user_tokens"].files == len([path for path in lying if "_delta_log" not in path])
    assert done.before["user_tokens"].dead_files == 1
    assert all(found.dead_files == 0 for found in done.after.values())
    record = writable.lake.read("runs").where("run_id = 'house' AND rows['bytes_after'] IS NOT NULL").first()
    assert record is not None
    assert record.rows["bytes_before"] == sum(found.bytes for found in done.before.values())
    assert record.rows["user_tokens.files_after"] == done.after["user_tokens"].files
    assert record.rows["bytes_after"] < record.rows["bytes_before"]
    assert record.rows["removed"] == sum(removed.rows for removed in done.removed) > 0


def test_run_files_of_registered_trainings_go_unless_somebody_trains(writable: Context, reader: subprocess.Popen[bytes]) -> None:
    """A version that is not registered is still being trained, or will go on."""
    folder = Path(writable.lake.root) / "checkpoints"
    folder.mkdir(exist_ok=True)
    over, going = folder / ".v1.training", folder / ".v9.training"
    over.touch()
    going.touch()
    lease_of(reader, writable, purpose="train")
    assert maintain_lakehouse.run(writable).leftovers == []
    reader.kill()
    reader.wait()
    assert maintain_lakehouse.run(writable).leftovers == [str(over)]
    assert (over.exists(), going.exists()) == (False, True)


def test_two_maintenances_do_not_share_a_lakehouse(ready: Context) -> None:
    """The second is told at once."""
    with filelock.FileLock(ready.lake.own_folder() / "maintain.lock"), pytest.raises(Infrastructure, match="another one works in"):
        maintain_lakehouse.run(ready)


def test_without_leases_the_tables_own_retention_is_the_least(ready: Context) -> None:
    """On an object store nobody knows who reads."""
    ready.lake.is_local = False
    with pytest.raises(BadInput, match=r"--retain-hours 24: .* has no leases that say who reads, expected 168 or more"):
        maintain_lakehouse.run(ready, retain_hours=24)


def test_the_oldest_reader_decides_with_a_margin(published: Context, reader: subprocess.Popen[bytes]) -> None:
    """Rounded up to whole hours; a reader that is younger than the retention changes nothing."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    lease = Lease(lease_id="a", order=1, run_id="r", purpose="sql", exclusive=False, host="h 1", processes=(), started_at=now, expires_at=now)
    old, young = replace(lease, started_at=now - timedelta(hours=8)), replace(lease, started_at=now - timedelta(minutes=49))
    assert Horizon.of([young, old], 0, now) == Horizon(hours=9, reader=old)
    assert Horizon.of([young], 0, now) == Horizon(hours=1, reader=young)
    assert Horizon.of([replace(young, started_at=now - timedelta(minutes=51))], 0, now).hours == 2
    assert Horizon.of([old], 168, now) == Horizon(hours=168)
    assert "9 h are kept: `sql` (run r, since 2026-01-01 16:00:00 UTC on h) reads since then" in str(Horizon.of([old], 1, now))


@pytest.mark.usefixtures("same_session")
def test_the_command_takes_days_per_kind_of_table(writable: Context, capsys: pytest.CaptureFixture[str]) -> None:
    """--keep-days is for all but tokens; a kind's own option wins; `plan` says what is gone."""
    where = ["--root", writable.lake.root]
    assert cli.call(["maintain", *where, "--keep-days", "1", "--keep-feature-days", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "would remove user_features" in said
    assert "days up to 2024-01-01" in said
    assert "would remove source_bill" in said
    assert " user_tokens:" not in said
    assert cli.call(["maintain", *where, "--keep-source-days", "1"]) == 0
    assert "removed source_bill" in capsys.readouterr().out
    assert cli.call(["plan", *where, "--from", "2024-01-01", "--to", "2024-01-03", "--cutoff", "2023-01-01T00:00:00+00:00"]) == 0
    said = capsys.readouterr().out
    assert "nothing to do" in said
    assert "removed by retention, up to 2024-01-02: quarantine_bill" in said
    assert cli.call(["maintain", *where, "--keep-token-days", "30"]) == 20


def test_locks_of_days_stay(writable: Context) -> None:
    """Somebody may be about to take one; they are empty."""
    lock = writable.lake.own_folder("days") / "2024-01-01.lock"
    lock.touch()
    assert render(maintain_lakehouse.run(writable, retain_hours=0))
    assert lock.exists()
