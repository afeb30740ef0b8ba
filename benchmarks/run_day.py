"""Seconds, rows and peak memory of `u2qt run-day` at two sizes, and what five times the users cost."""

import argparse
import json
import subprocess
from pathlib import Path

from benchmarks.lakes import SECOND, U2QT, Peak, prepared, run, watched, where

STAGES = ("validate_sources", "build_user_features", "encode_users", "audit_tokens", "publish_tokens")


def measured(folder: Path) -> tuple[dict[str, float], dict[str, int], Peak]:
    """Per stage its seconds by the ledger; rows of the day; peak memory of the run's processes."""
    name = f"bench-{folder.name}-{len(list((folder / 'lakehouse' / 'runs').glob('*.parquet')))}"
    with watched() as peak:
        run("run-day", "--ds", SECOND, "--run-id", name, *where(folder))
    question = f"SELECT stage, seconds, rows FROM runs WHERE run_id = '{name}'"
    answer = subprocess.run([U2QT, "sql", question, "--format", "json", *where(folder)], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    counts = {key: value for row in rows for key, value in row["rows"].items() if key in ("rows_in", "user_features", "user_tokens")}
    return {row["stage"]: row["seconds"] for row in rows}, counts, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--users", type=int, nargs=2, default=[20_000, 100_000])
    arguments = parser.parse_args()
    small, large = (measured(prepared(arguments.work, users)) for users in arguments.users)
    print(f"\nrun-day --ds {SECOND}: {arguments.users[0]:,} and {arguments.users[1]:,} users")
    print(f"rows: {small[1]} and {large[1]}")
    print(f"{'stage':22}{'seconds':>10}{'seconds':>10}{'ratio':>8}")
    for stage in STAGES:
        print(f"{stage:22}{small[0][stage]:10.1f}{large[0][stage]:10.1f}{large[0][stage] / small[0][stage]:8.2f}")
    for label, name in (("JVM", "jvm"), ("driver's Python", "driver_python"), ("Python workers", "workers"), ("largest worker", "largest_worker")):
        print(f"peak MB, {label:16}{getattr(small[2], name):8.0f}{getattr(large[2], name):8.0f}")


if __name__ == "__main__":
    main()
