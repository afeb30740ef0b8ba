"""Too little memory, in real processes: a clear end that names which memory and the setting; nothing published changes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.context import Context
from jobs.delta_tables import Lakehouse


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
            ("encode", "--ds", "2024-01-03", "--force", "--conf", "spark.executor.pyspark.memory=300m", "--master", "local[2]"),
            "Python",
        ),
    ],
    ids=["no start", "heap", "worker"],
)
def test_too_little_memory_ends_clearly(published: Context, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Exit 30, the setting to raise, no stack; the lakehouse stays readable and its tokens what they were."""
    root = tmp_path / "lake"
    shutil.copytree(published.lake.root, root)
    before = published.lake.version("user_tokens")
    ended = subprocess.run([sys.executable, "-m", "jobs.cli", *arguments, "--root", str(root)], capture_output=True, text=True, check=False, timeout=400)
    assert ended.returncode == 30, ended.stderr[-3000:]
    assert said in ended.stderr, ended.stderr[-3000:]
    assert "memory" in ended.stderr
    assert "\tat " not in ended.stderr, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr, ended.stderr[-3000:]
    assert published.spark.read.format("delta").load(str(root / "user_tokens")).count() == published.lake.read("user_tokens").count()
    assert Lakehouse(published.spark, str(root)).version("user_tokens") == before
