"""Too little memory, in real processes: a clear end that names which memory and the setting; nothing published changes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kill_lake
from benchmarks.kill_lake import Prepared


def ended_clearly(ended: "subprocess.CompletedProcess[str]", said: str) -> None:
    """Exit 30, the setting to raise, no stack."""
    assert ended.returncode == 30, ended.stderr[-3000:]
    assert said in ended.stderr, ended.stderr[-3000:]
    assert "memory" in ended.stderr
    words = ended.stderr[ended.stderr.rindex("\nu2qt: ") :]  # before it a Java that ends may say why
    assert "\tat " not in words, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr, ended.stderr[-3000:]


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
    ],
    ids=["no start", "heap"],
)
def test_too_little_memory_ends_clearly(tasks: dict[str, Prepared], tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Exit 30, the setting to raise, no stack; no table has changed, and every file that they name is there."""
    root, task = tmp_path / "lake", tasks["day"]
    shutil.copytree(task.template, root)
    where = ["--root", str(root), "--catalog", str(task.catalog)]
    ended = subprocess.run([sys.executable, "-m", "jobs.cli", *arguments, *where], capture_output=True, text=True, check=False, timeout=400)
    ended_clearly(ended, said)
    assert kill_lake.digests(root) == task.before
    assert kill_lake.unreadable_files(root) == []


def test_with_memory_enough_the_same_command_completes(tasks: dict[str, Prepared], tmp_path: Path) -> None:
    """Encoding under a cap on its workers ends as clearly; after the relief that it names, the rows are those of before, made anew."""
    root, task = tmp_path / "lake", tasks["day"]
    shutil.copytree(task.template, root)
    command = [sys.executable, "-m", "jobs.cli", "encode", "--ds", "2024-01-02", "--force", "--root", str(root), "--catalog", str(task.catalog)]
    small = ["--conf", "spark.executor.pyspark.memory=300m", "--master", "local[2]"]  # workers of 150 MiB, which don't even hold their libraries
    capped = subprocess.run([*command, *small], capture_output=True, text=True, check=False, timeout=400)
    ended_clearly(capped, "Python")
    assert kill_lake.digests(root) == task.before
    relieved = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert relieved.returncode == 0, relieved.stderr[-3000:]
    assert kill_lake.digests(root) == task.before
    assert any(row["stage"] == "encode_users" and row["status"] == "done" and "run-" in str(row["run_id"]) for row in kill_lake.rows_of(root / "runs"))
