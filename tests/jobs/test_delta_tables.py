"""The lakehouse over real Delta tables."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs import init_lakehouse
from jobs.context import Context
from jobs.delta_tables import Lakehouse, Where
from jobs.errors import BadInput, CommitConflict, Infrastructure
from jobs.ledger import record_stage
from schemas.errors import IdentifierError
from schemas.keys import Days

FIRST, SECOND = date(2026, 1, 1), date(2026, 1, 2)
COUNTS = (
    "SELECT '{source}' source, DATE'{ds}' delivered_ds, 'd' delivery_id, 5L rows_in, {clean}L clean, 1L quarantined, 1L duplicates, 'passed' gate, 'r' run_id"
)


def test_init_twice_changes_nothing(ready: Context) -> None:
    """The second run finds every table; no version moves."""
    assert init_lakehouse.run(ready)["created"] == 0
    assert ready.lake.version("user_tokens") == 0


def test_replace_touches_only_its_partition(ready: Context) -> None:
    """Replacing one day leaves the other, and pinned files and row counts say so."""
    for ds in (FIRST, SECOND, SECOND):
        rows = ready.spark.sql(COUNTS.format(source="bill", ds=ds, clean=3))
        version = ready.lake.replace("deliveries", rows, Where(days=Days(ds, ds), day_column="delivered_ds"), {"run_id": "r"})
    files = ready.lake.active_files("deliveries", version)
    assert [(f.partition["delivered_ds"], f.rows) for f in files] == [(str(FIRST), 1), (str(SECOND), 1)]
    assert len(ready.lake.active_files("deliveries", 1)) == 1


def test_replace_rejects_rows_outside_its_predicate(ready: Context) -> None:
    """A stray row makes the whole write fail and the table keeps its version."""
    rows = ready.spark.sql(COUNTS.format(source="bill", ds=SECOND, clean=3))
    with pytest.raises(Exception, match="REPLACE_WHERE"):
        ready.lake.replace("deliveries", rows, Where(days=Days(FIRST, FIRST), day_column="delivered_ds"), {})
    assert ready.lake.version("deliveries") == 0


def test_outcomes_that_do_not_add_up_are_refused(ready: Context) -> None:
    """The CHECK constraint of `deliveries` is enforced by Delta."""
    rows = ready.spark.sql(COUNTS.format(source="bill", ds=FIRST, clean=4))
    with pytest.raises(Exception, match=re.compile("CHECK|constraint", re.IGNORECASE)):
        ready.lake.append("deliveries", rows, {})


def test_predicates_take_identifiers_only() -> None:
    """Quotes never reach SQL."""
    with pytest.raises(IdentifierError):
        Where(equals=(("source", "x' OR '1'='1"),)).sql()


@pytest.mark.parametrize("root", ["/tmp/a#b", "/tmp/a`b", "/tmp/../etc"])
def test_roots_that_would_be_misread_are_refused(context: Context, root: str) -> None:
    """The message names the character."""
    with pytest.raises(BadInput, match="expected a path without it"):
        Lakehouse(context.spark, root)


def test_a_table_that_is_not_there_names_the_way_out(context: Context) -> None:
    """Before `u2qt init` every read says to run it."""
    with pytest.raises(BadInput, match="u2qt init"):
        context.lake.read("user_tokens")


def test_the_ledger_records_a_failure_and_lets_it_pass(ready: Context) -> None:
    """An unexpected error is recorded by its type alone: its text could hold content."""

    def failing() -> None:
        with record_stage(ready, "encode_users", Days(FIRST, FIRST)) as record:
            record.rows["read"] = 3
            raise ZeroDivisionError("secret")

    with pytest.raises(ZeroDivisionError):
        failing()
    row = ready.lake.read("runs").first()
    assert row is not None
    assert (row.status, row.rows, row.detail) == ("failed", {"read": 3}, '{"error": "ZeroDivisionError"}')


def counts_of(context: Context, ds: date) -> DataFrame:
    return context.spark.sql(COUNTS.format(source="bill", ds=ds, clean=3))


def test_a_write_that_another_process_overtook_fails_whole(ready: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock holds, the later of two commits to one day says so, and only the other's rows are there; other days go on."""

    def slowly(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            time.sleep(4)
            yield frame

    monkeypatch.setattr(Lakehouse, "commit_lock", lambda self: nullcontext())
    day = Where(days=Days(FIRST, FIRST), day_column="delivered_ds")
    slow = counts_of(ready, FIRST).mapInPandas(slowly, ready.lake.read("deliveries").schema)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(ready.lake.replace, "deliveries", slow.withColumn("run_id", F.lit("late")), day, {})
        time.sleep(2)
        ready.lake.replace("deliveries", counts_of(ready, FIRST), day, {})
        with pytest.raises(CommitConflict, match=r"table deliveries: another process committed to the same days meanwhile .*nothing of this write stands"):
            late.result()
        late = pool.submit(ready.lake.replace, "deliveries", slow, day, {})
        time.sleep(2)
        ready.lake.replace("deliveries", counts_of(ready, SECOND), Where(days=Days(SECOND, SECOND), day_column="delivered_ds"), {})
        assert late.result() == ready.lake.version("deliveries") == 3
    assert {(row.run_id, row.delivered_ds) for row in ready.lake.read("deliveries").collect()} == {("r", FIRST), ("r", SECOND)}


def test_a_run_that_does_not_find_its_own_commit_says_so(ready: Context) -> None:
    """Two drivers both believed that a version was theirs: the log has one's entry."""
    ready.lake.append("deliveries", counts_of(ready, FIRST), {})
    mark = json.loads(json.loads(log_entry(ready, 1))["commitInfo"]["userMetadata"])["commit"]
    ready.lake._require_commit("deliveries", 0, 1, mark)
    with pytest.raises(Infrastructure, match=r"table deliveries: its versions 1 to 1 hold this run's commit 0 times.*u2qt doctor"):
        ready.lake._require_commit("deliveries", 0, 1, "another mark")
    ready.lake.is_local = False
    with pytest.raises(Infrastructure, match="0 times"):
        ready.lake._require_commit("deliveries", 0, 1, "another mark")


def log_entry(context: Context, version: int) -> str:
    return (Path(context.lake.path("deliveries")) / "_delta_log" / f"{version:020d}.json").read_text().splitlines()[0]
