"""What tokens keep of what predicts a label: several tokenizers, floats and counts on simulated users, as `u2qt evaluate` measures it."""

import argparse
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.evaluated import VERSIONS, carried_out, evaluated, published, seeded
from benchmarks.lakes import run_together, where

FIRST, LAST, TRAINED_THROUGH = "2024-01-01", "2024-01-28", "2024-01-10"
FIRST_LABEL = "2024-01-11"
STABLE = ("--as-of", "2024-01-29T12:00:00+08:00")
FUTURE = ("--at", "at", "--horizon", "8d", "--max-labels", "5000")  # the seventh day after a label's ends 7.5 days later


def lakehouse(folder: Path, users: int) -> list[list[str]]:
    """The commands that make 28 days of simulated users, built."""
    stages = [[stage, "--from", FIRST, "--to", LAST, *where(folder)] for stage in ("validate", "build")]
    return [["simulate", "--users", str(users), "--days", "28", "--seed", "7", "--out", str(folder)], ["init", *where(folder)], *stages]


def later_labels(folder: Path) -> Path:
    """The coming-week labels of the days after training; `at` is text that sorts by time."""
    table = pq.read_table(folder / "labels" / "coming_week")
    out = folder / "labels" / "coming_week_later.parquet"
    pq.write_table(table.filter(pc.greater_equal(table["at"], FIRST_LABEL)), out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--versions", nargs="+", default=list(VERSIONS), choices=VERSIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    arguments = parser.parse_args()
    folder = arguments.work / f"evaluation-{arguments.users}"
    if not (folder / "built").exists():
        run_together(*lakehouse(folder, arguments.users))
        (folder / "built").touch()
    versions = seeded({version: VERSIONS[version] for version in arguments.versions}, arguments.seeds)
    questions = {
        "attribute": ("--labels", str(folder / "labels" / "attribute"), *STABLE),
        "coming-week": ("--labels", str(later_labels(folder)), *FUTURE),
    }
    commands = published(folder, versions, trained=(FIRST, TRAINED_THROUGH), days=(FIRST, LAST))
    carried_out(folder, list(versions), questions, [*commands, *evaluated(folder, list(versions), questions)])


if __name__ == "__main__":
    main()
