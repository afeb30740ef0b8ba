"""A write finds its own commit once, or fails whole."""

import json
import os
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

from jobs.commits import UNFINISHED, entries_of_files, entries_of_history, require_once
from jobs.context import Context
from jobs.delta_tables import Lakehouse, Where
from jobs.errors import CommitConflict, Infrastructure
from schemas.keys import Days

FIRST, SECOND = date(2024, 1, 1), date(2024, 1, 2)
COUNTS = (
    "SELECT '{source}' source, DATE'{ds}' delivered_ds, 'd' delivery_id, 5L rows_in, {clean}L clean, 1L quarantined, 1L duplicates, "
    "'passed' gate, 'r' run_id, 0L forgotten, CAST(NULL AS MAP<STRING, BIGINT>) nulls"
)


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


def test_a_run_that_does_not_find_its_own_commit_once_says_so(ready: Context) -> None:
    """Two drivers both believed that a version was theirs: the log has one's entry. Twice is no better than never."""
    ready.lake.append("deliveries", counts_of(ready, FIRST), {})
    entries = entries_of_files(Path(ready.lake.path("deliveries")), 0, 1)
    mark = mark_of(ready, 1)
    require_once("deliveries", entries, mark)
    for wrong, entries_found, times in (("another mark", entries, 0), (mark, [*entries, *entries], 2)):
        with pytest.raises(Infrastructure, match=rf"table deliveries: the \d versions since its write began hold this run's commit {times} times.*u2qt doctor"):
            require_once("deliveries", entries_found, wrong)


def test_a_write_looks_for_its_commit(ready: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the entry replaced by another driver's, the write has failed; on an object store it is the history that is asked."""
    monkeypatch.setattr("jobs.delta_tables.entries_of_files", lambda path, before, after: ["another driver's"])
    with pytest.raises(Infrastructure, match="commit 0 times"):
        ready.lake.append("deliveries", counts_of(ready, FIRST), {})
    ready.lake.is_local = False
    assert ready.lake.append("deliveries", counts_of(ready, FIRST), {}) == 2
    monkeypatch.setattr("jobs.delta_tables.entries_of_history", lambda spark, path, before, after: ["another driver's"])
    with pytest.raises(Infrastructure, match="commit 0 times"):
        ready.lake.append("deliveries", counts_of(ready, FIRST), {})


def test_an_append_without_rows_makes_no_commit_to_look_for(ready: Context) -> None:
    """A day without quarantined rows."""
    assert ready.lake.append("deliveries", counts_of(ready, FIRST).limit(0), {}) == 0


def test_own_commits_are_found_among_those_of_others(ready: Context) -> None:
    """By files and by history alike, also where others committed after this run had looked."""
    for _ in range(4):
        ready.lake.append("deliveries", counts_of(ready, FIRST), {})
    path = ready.lake.path("deliveries")
    marks = [mark_of(ready, version) for version in (1, 2, 3, 4)]
    for before, after, present in ((0, 2, [1, 1, 0, 0]), (2, 4, [0, 0, 1, 1]), (3, 3, [0, 0, 0, 0])):
        for entries in (entries_of_files(Path(path), before, after), entries_of_history(ready.spark, path, before, after)):
            assert [sum(mark in entry for entry in entries) for mark in marks] == present


def test_an_unfinished_log_entry_goes_with_the_next_write(ready: Context) -> None:
    """Of a process that was killed over it, once nobody can be writing it any more."""
    log = Path(ready.lake.path("deliveries")) / "_delta_log"
    old, fresh = log / ".1.json.a.tmp", log / ".1.json.b.tmp"
    for path in (old, fresh):
        path.touch()
    long_ago = time.time() - 2 * UNFINISHED
    os.utime(old, (long_ago, long_ago))
    ready.lake.append("deliveries", counts_of(ready, FIRST), {})
    assert (old.exists(), fresh.exists()) == (False, True)


def mark_of(context: Context, version: int) -> str:
    """What tells the commit from every other."""
    (entry,) = entries_of_files(Path(context.lake.path("deliveries")), version - 1, version)
    return str(json.loads(json.loads(entry.splitlines()[0])["commitInfo"]["userMetadata"])["commit"])
