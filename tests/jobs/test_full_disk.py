"""A lakehouse on a small file system that fills up: a clear end, nothing lost, and the same rows once there is room."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from benchmarks import kill_lake
from benchmarks.kill_lake import Prepared
from jobs.errors import Infrastructure

SIZE, MIDDLE = 20 << 20, 200 << 10  # bytes of the small file system, and those left for a day that needs more


@pytest.fixture
def task(tasks: dict[str, Prepared]) -> Prepared:
    """A day after two published ones."""
    return tasks["day"]


@pytest.fixture
def small(task: Prepared, tmp_path: Path) -> Iterator[Path]:
    """A copy of the lakehouse before the day, on a file system of its own of 20 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(mount)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here ({mounted.stderr.strip()}): run this test as root")
    try:
        shutil.copytree(task.template, mount / "lake")
        yield mount / "lake"
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)  # the last command's Java may take a moment to end


def leave(root: Path, free: int) -> Path:
    """Fills the file system but for `free` bytes."""
    filler = root.parent / "filler"
    filler.write_bytes(b"\0" * (shutil.disk_usage(root).free - free))
    return filler


def run_day(root: Path, task: Prepared) -> subprocess.CompletedProcess[str]:
    where = ["--root", str(root), "--input", str(task.raw), "--catalog", str(task.catalog), "--master", "local[1]"]
    command = [sys.executable, "-m", "jobs.cli", "run-day", "--ds", str(task.days.first), *where]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_disk_that_fills_up_loses_nothing(spark: SparkSession, small: Path, task: Prepared) -> None:
    """Full from the start, and full in the middle of the day; then, with room, the rows of a run that nothing disturbed."""
    context = kill_lake.context_of(spark, small, task.raw, task.catalog, "full")
    before = kill_lake.whole_days(task.template)
    filler = leave(small, 0)
    ended = run_day(small, task)
    assert (ended.returncode, "disk full" in ended.stderr, str(small) in ended.stderr) == (30, True, True), ended.stderr
    assert len(ended.stderr.splitlines()) < 20, ended.stderr
    assert kill_lake.whole_days(small) == before
    filler.unlink()
    filler = leave(small, MIDDLE)
    with pytest.raises(Infrastructure, match=rf"disk full.*lakehouse {small}: .* of 20\.0 MiB free"):
        kill_lake.work(context, task.days, task.cutoff)
    assert kill_lake.whole_days(small) == before
    assert kill_lake.unreadable_files(small) == []
    filler.unlink()
    kill_lake.work(context, task.days, task.cutoff)
    assert kill_lake.digests(small) == task.after
