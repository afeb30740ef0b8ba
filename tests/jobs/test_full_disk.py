"""A lakehouse on a small file system that fills up: a clear end, nothing lost, and the same rows once there is room."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from jobs import audit_tokens, build_user_features, encode_users, publish_tokens, simulate_sources, validate_sources
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.errors import Infrastructure
from schemas.keys import Days

SIZE, MIDDLE = 40 << 20, 400 << 10  # bytes of the small file system, and those left for a day that needs more
NEXT = Days(date(2024, 1, 4), date(2024, 1, 4))
STAGES = (validate_sources, build_user_features, encode_users, audit_tokens, publish_tokens)
Rows = list[tuple[object, ...]]


@pytest.fixture(scope="module")
def more(published: Context, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw input of `published`, and of a day more."""
    out = tmp_path_factory.mktemp("more")
    simulate_sources.run(published.spark, out=out, users=60, days=4, seed=1, start=date(2024, 1, 1), dirt=0.1)
    return out / "raw"


@pytest.fixture
def small(published: Context, more: Path, tmp_path: Path) -> Iterator[Context]:
    """A copy of `published` on a file system of its own of 40 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(mount)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here ({mounted.stderr.strip()}): run this test as root")
    try:
        shutil.copytree(published.lake.root, mount / "lake")
        yield replace(published, lake=Lakehouse(published.spark, str(mount / "lake")), input_root=str(more), run_id="full")
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def leave(context: Context, free: int) -> Path:
    """Fills the file system but for `free` bytes."""
    filler = Path(context.lake.root).parent / "filler"
    room = shutil.disk_usage(filler.parent).free - free
    filler.write_bytes(b"\0" * room)
    return filler


def tokens(context: Context) -> Rows:
    """What a reader sees, less what a repetition changes."""
    return sorted(tuple(row) for row in context.lake.read("user_tokens").drop("run_id", "available_at").collect())


def work(context: Context) -> None:
    for stage in STAGES:
        stage.run(context, NEXT)


def u2qt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], capture_output=True, text=True, check=False, timeout=300)


def test_a_disk_that_fills_up_loses_nothing(small: Context, published: Context, more: Path, tmp_path: Path) -> None:
    """Full from the start, and full in the middle of the day; then, with room, the rows of a run that nothing disturbed."""
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(published.lake.root, undisturbed)
    quiet = replace(published, lake=Lakehouse(published.spark, str(undisturbed)), input_root=str(more), run_id="quiet")
    work(quiet)
    before, expected = tokens(published), tokens(quiet)
    filler = leave(small, 0)
    ended = u2qt("run-day", "--ds", str(NEXT.first), "--root", small.lake.root, "--input", str(more))
    assert (ended.returncode, "disk full" in ended.stderr, small.lake.root in ended.stderr) == (30, True, True), ended.stderr
    assert len(ended.stderr.splitlines()) < 20, ended.stderr
    assert tokens(small) == before
    filler.unlink()
    filler = leave(small, MIDDLE)
    with pytest.raises(Infrastructure, match=rf"disk full.*lakehouse {small.lake.root}: .* of 40\.0 MiB free"):
        work(small)
    assert tokens(small) == before
    filler.unlink()
    work(small)
    assert tokens(small) == expected
