"""A day run again: unchanged, against all of its work (`--force`), and once its late rows are in, with the share of users encoded again."""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.lakes import FIRST, SECOND, U2QT, run, run_together, where

LATE = "0.01"
EVENT_SOURCES = ("bill", "mini_program", "spm", "app", "search")
THIRD = "2024-01-03"
KNOWN_LATER = "2024-01-05T12:00:00+08:00"  # after the delivery of the third day, which has the second's late rows


def lakehouse(work: Path, users: int) -> Path:
    """Three simulated days, a tokenizer of the first, the second published as it was known on the third's morning."""
    folder = work / f"rerun-{users}"
    if not (folder / "ready").exists():
        simulate = ["simulate", "--users", str(users), "--days", "3", "--start", FIRST, "--late", LATE, "--out", str(folder)]
        train = ["train", "--from", FIRST, "--to", FIRST, "--tokenizer-version", "bench", "--size", "demo", *where(folder)]
        stages = [[stage, "--ds", FIRST, *where(folder)] for stage in ("validate", "build")]
        run_together(simulate, ["init", *where(folder)], *stages, train, ["tokenizer", "promote", "bench", *where(folder)])
        run("run-day", "--ds", SECOND, *where(folder))
        (folder / "ready").touch()
    return folder


def seconds(*command: str) -> float:
    clock = time.perf_counter()
    run(*command)
    return time.perf_counter() - clock


def asked(folder: Path, question: str) -> list[dict[str, Any]]:
    answer = subprocess.run([U2QT, "sql", question, "--format", "json", *where(folder)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in answer.stdout.splitlines()]


def stage_seconds(folder: Path, run_id: str) -> float:
    return float(asked(folder, f"SELECT sum(seconds) AS seconds FROM runs WHERE run_id = '{run_id}'")[0]["seconds"])


def unchanged(folder: Path, rounds: int) -> None:
    """In turns: the day by force, the day again. Whole commands, and what the stages took by the ledger."""
    ratios: dict[str, list[float]] = {"command": [], "stages": []}
    already = len(list((folder / "lakehouse" / "runs").glob("*.parquet")))  # so that run ids are new in a second call
    for number in range(rounds):
        names = {kind: f"{kind}-{already}-{number}" for kind in ("full", "again")}
        full = seconds("run-day", "--ds", SECOND, "--force", "--run-id", names["full"], *where(folder))
        again = seconds("run-day", "--ds", SECOND, "--run-id", names["again"], *where(folder))
        stages = {kind: stage_seconds(folder, name) for kind, name in names.items()}
        ratios["command"].append(again / full)
        ratios["stages"].append(stages["again"] / stages["full"])
        print(f"round {number}: full {full:.1f} s, of it stages {stages['full']:.1f}; again {again:.1f} s, of it stages {stages['again']:.1f}", flush=True)
    for kind, seen in ratios.items():
        print(f"again / full, {kind}: {statistics.median(seen):.2f} ({min(seen):.2f} to {max(seen):.2f})")


def repaired(folder: Path, users: int) -> None:
    """The late rows of the day, delivered a day later: what share they are, whom they change, and the seconds of the repair."""
    name = f"repair-{len(list((folder / 'lakehouse' / 'runs').glob('*.parquet')))}"
    validated = seconds("validate", "--ds", THIRD, *where(folder))
    took = seconds("backfill", "--from", SECOND, "--to", SECOND, "--cutoff", KNOWN_LATER, "--run-id", name, *where(folder))
    events = " UNION ALL ".join(
        f"SELECT delivered_ds FROM source_{source} WHERE ds = '{SECOND}'" for source in ("bill", "mini_program", "spm", "app", "search")
    )
    late = asked(folder, f"SELECT count_if(delivered_ds > '{SECOND}') AS late, count(*) AS events FROM ({events})")[0]
    done = [row["rows"] for row in asked(folder, f"SELECT rows FROM runs WHERE run_id = '{name}' AND stage = 'encode_users' AND status = 'done'")]
    if len(done) != 1:
        raise SystemExit(f"{folder}: found {len(done)} encodings by the repair, expected one; remove the folder, the day was repaired before")
    encoded, reused = done[0]["encoded"], done[0]["reused"]
    print(f"late rows: {late['late']:,} of {late['events']:,} events, {late['late'] / late['events']:.2%}")
    print(f"encoded again: {encoded:,} of {encoded + reused:,} user-days, {encoded / (encoded + reused):.1%}")
    print(f"repair {took:.1f} s, of it stages {stage_seconds(folder, name):.1f}; validation of the later delivery {validated:.1f} s ({users:,} users)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = lakehouse(arguments.work, arguments.users)
    unchanged(folder, arguments.rounds)
    repaired(folder, arguments.users)


if __name__ == "__main__":
    main()
