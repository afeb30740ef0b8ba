"""What tokens keep of what predicts a label on a real dump: several tokenizers, floats and counts, three labels 30 days ahead."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.evaluated import VERSIONS, carried_out, evaluated, published, seeded
from benchmarks.lakes import run_together, where

REPOSITORY = Path(__file__).resolve().parents[1]
CATALOG = REPOSITORY / "examples" / "stackexchange"
DUMP = REPOSITORY.parent / "shared" / "data" / "beer.stackexchange.com"
FIRST, TRAINED_THROUGH, FIRST_LABEL, LAST = "2014-01-21", "2015-07-31", "2015-08-01", "2016-12-11"
FIRST_SEEN = "2015-05-01"  # 90 days before the first label
LABELS = ("active", "badge", "accepted")
FUTURE = ("--at", "at", "--horizon", "30d")


def lakehouse(folder: Path, dump: Path) -> list[list[str]]:
    """The commands that build all days of the dump."""
    stages = [[stage, "--from", FIRST, "--to", LAST, *where(folder)] for stage in ("validate", "build")]
    return [["import", "stackexchange", str(dump), "--out", str(folder / "raw")], ["init", *where(folder)], *stages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--dump", type=Path, default=DUMP)
    parser.add_argument("--size", default="demo")
    parser.add_argument("--versions", nargs="+", default=list(VERSIONS), choices=VERSIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    arguments = parser.parse_args()
    os.environ["U2QT_CATALOG"] = str(CATALOG)
    folder = arguments.work / f"evaluation-{arguments.dump.name}"
    folder.mkdir(parents=True, exist_ok=True)
    versions = seeded({version: ("--size", arguments.size, *VERSIONS[version]) for version in arguments.versions}, arguments.seeds)
    questions = {label: ("--labels", str(folder / "labels" / f"{label}.parquet"), *FUTURE) for label in LABELS}
    commands = [] if (folder / "raw").exists() else lakehouse(folder, arguments.dump)
    commands += published(folder, versions, trained=(FIRST, TRAINED_THROUGH), days=(FIRST_SEEN, LAST))
    if commands:
        run_together(*commands)
    if not (folder / "labels").exists():
        script = [sys.executable, str(CATALOG / "labels.py"), str(arguments.dump), str(folder / "raw")]
        subprocess.run([*script, "--first", FIRST_LABEL, "--out", str(folder / "labels")], check=True)
    carried_out(folder, list(versions), questions, evaluated(folder, list(versions), questions))


if __name__ == "__main__":
    main()
