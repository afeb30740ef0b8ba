"""Bytes on disk before and after `u2qt maintain`, on a day that was worked again and again; its rows stay what they were."""

import argparse
import shutil
import subprocess
from pathlib import Path

from benchmarks.lakes import SECOND, U2QT, run, where
from benchmarks.rerun_day import EVENT_SOURCES, asked, lakehouse, seconds

CODES = ", ".join(f"{source}_codes" for source in (*EVENT_SOURCES, "profile"))
ROWS = f"SELECT count(*) AS n, bit_xor(xxhash64(user_id, ds, tokenizer_version, row_hash, {CODES})) AS fold FROM user_tokens"


def disk(root: Path) -> tuple[int, int]:
    """Files and bytes."""
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--again", type=int, default=5, help="times that the day is worked again")
    arguments = parser.parse_args()
    folder, copy = lakehouse(arguments.work, arguments.users), arguments.work / "maintained"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    for _ in range(arguments.again):
        run("run-day", "--ds", SECOND, "--force", *where(copy))
    rows, before = asked(copy, ROWS), disk(copy / "lakehouse")
    took = seconds("maintain", "--retain-hours", "0", *where(copy))
    after = disk(copy / "lakehouse")
    if asked(copy, ROWS) != rows:
        raise SystemExit(f"{copy}: user_tokens has other rows after the maintenance")
    print(f"{arguments.users:,} users, two days, one of them worked {arguments.again + 1} times")
    for name, (files, size) in (("before", before), ("after", after)):
        print(f"{name:7}{files:8,} files{size / 2**20:10.1f} MiB")
    print(f"u2qt maintain --retain-hours 0: {took:.1f} s; user_tokens has the same rows")
    again = subprocess.run([U2QT, "maintain", "--dry-run", *where(copy)], capture_output=True, text=True, check=True)
    print(again.stdout)


if __name__ == "__main__":
    main()
