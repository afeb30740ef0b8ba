"""Too little memory, in real processes: a clear end that names which memory and the setting; nothing published changes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kill_lake
from benchmarks.kill_lake import Prepared


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (  # Spark itself refuses to start
            ("sql", "SELECT 1", "--conf", "spark.driver.memory=200m"),
            "Spark won't start with so little",
        ),
        (  # a heap of 500 MiB, and one value that does not fit
            (
                "sql",
                "SELECT length(concat_ws('', collect_list(sha2(cast(id AS STRING), 512)))) AS n FROM range(20000000)",
                "--conf",
                "spark.driver.memory=500m",
            ),
            "memory",
        ),
        (  # Python workers with 150 MiB of address space, which don't even hold their libraries
            ("encode", "--ds", "2024-01-02", "--force", "--conf", "spark.executor.pyspark.memory=300m", "--master", "local[2]"),
            "Python",
        ),
    ],
    ids=["no start", "heap", "worker"],
)
def test_too_little_memory_ends_clearly(tasks: dict[str, Prepared], tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Exit 30, the setting to raise, no stack; no table has changed, and every file that they name is there."""
    root, task = tmp_path / "lake", tasks["day"]
    shutil.copytree(task.template, root)
    where = ["--root", str(root), "--catalog", str(task.catalog)]
    ended = subprocess.run([sys.executable, "-m", "jobs.cli", *arguments, *where], capture_output=True, text=True, check=False, timeout=400)
    assert ended.returncode == 30, ended.stderr[-3000:]
    assert said in ended.stderr, ended.stderr[-3000:]
    assert "memory" in ended.stderr
    assert "\tat " not in ended.stderr, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr, ended.stderr[-3000:]
    assert kill_lake.digests(root) == task.before
    assert kill_lake.unreadable_files(root) == []
