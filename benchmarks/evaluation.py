"""What tokens keep of what predicts a label: two tokenizers, floats and counts on simulated users, as `u2qt evaluate` prints it."""

import argparse
import subprocess
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.lakes import U2QT, run, where

DAYS = ("--from", "2024-01-01", "--to", "2024-01-28")
TRAINED = ("--from", "2024-01-01", "--to", "2024-01-10")
VERSIONS = {"residual": "residual", "rq-kmeans": "rq_kmeans"}
FIRST_LABEL = "2024-01-11"
STABLE = ("--as-of", "2024-01-29T12:00:00+08:00")
FUTURE = ("--at", "at", "--horizon", "8d", "--max-labels", "10000")  # the seventh day after a label's ends 7.5 days later


def prepared(work: Path, users: int) -> Path:
    """28 days of simulated users, published with both tokenizers, which were trained on the first ten."""
    folder = work / f"evaluation-{users}"
    if (folder / "ready").exists():
        return folder
    run("simulate", "--users", str(users), "--days", "28", "--seed", "7", "--out", str(folder))
    run("init", *where(folder))
    for stage in ("validate", "build"):
        run(stage, *DAYS, *where(folder))
    for version, quantizer in VERSIONS.items():
        run("train", *TRAINED, "--tokenizer-version", version, "--quantizer", quantizer, *where(folder))
        for stage in ("encode", "audit", "publish"):
            run(stage, *DAYS, "--tokenizer-version", version, *where(folder))
    (folder / "ready").touch()
    return folder


def later_labels(folder: Path) -> Path:
    """The coming-week labels of the days after training; `at` is text that sorts by time."""
    table = pq.read_table(folder / "labels" / "coming_week")
    out = folder / "labels" / "coming_week_later.parquet"
    pq.write_table(table.filter(pc.greater_equal(table["at"], FIRST_LABEL)), out)
    return out


def evaluated(folder: Path, labels: Path, *options: str) -> None:
    """Prints the tables of one `u2qt evaluate`."""
    versions = [part for version in VERSIONS for part in ("--tokenizer-version", version)]
    print(f"\n$ u2qt evaluate --labels {labels.name} {' '.join((*options, *versions))}", flush=True)
    subprocess.run([U2QT, "evaluate", "--labels", str(labels), *options, *versions, *where(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--users", type=int, default=2_000)
    arguments = parser.parse_args()
    folder = prepared(arguments.work, arguments.users)
    evaluated(folder, folder / "labels" / "attribute", *STABLE)
    evaluated(folder, later_labels(folder), *FUTURE)


if __name__ == "__main__":
    main()
