"""Kills days: SIGKILL to the driver's Python, its JVM, an executor or a Python worker at a random moment, then the day again.

    python -m benchmarks.kill_day --rounds 200 --out /tmp/kills.jsonl

A round copies a prepared lakehouse, starts a task (a new day, or a repair that supersedes rows) with the stage that is drawn,
kills one of its processes and works the whole task again in another process, while a warm reader looks at `user_tokens`. Then
every table must be as after an undisturbed run, every look must have seen whole days, no process and no stray file may be left
but uncommitted ones, and those must go with a vacuum. A dead driver's JVM is not waited for: that is the lease's part. One JSON
line a round; called again, it goes on.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from benchmarks import kill_lake, kill_strike
from benchmarks.kill_lake import Prepared
from benchmarks.kill_strike import LONGEST, Plan, Victim, moment, stage_of, started, strike
from benchmarks.kill_victim import FAST_START
from jobs import leases
from jobs.commits import clear_unfinished
from jobs.session import build_session

REPOSITORY = Path(__file__).resolve().parents[1]
PLANS = (
    Plan(target="driver", task="day", where="any"),
    Plan(target="jvm", task="repair", where="any"),
    Plan(target="worker", task="repair", where="encoding"),
    Plan(target="executor", task="day", where="any"),
    Plan(target="driver", task="repair", where="gap"),
    Plan(target="jvm", task="day", where="published"),
    Plan(target="driver", task="repair", where="any"),
    Plan(target="jvm", task="day", where="any"),
    Plan(target="worker", task="day", where="encoding"),
    Plan(target="executor", task="repair", where="any"),
    Plan(target="jvm", task="repair", where="gap"),
    Plan(target="driver", task="repair", where="published"),
)
WARM = FAST_START | {"spark.driver.extraJavaOptions": "-XX:+UseSerialGC"}  # it lives for an hour: the second compiler saves a third from the fifth day on
DATA = (".parquet", ".parquet.crc")
UNCOMMITTED = (*DATA, ".tmp", ".tmp.crc")  # unfinished log entries, which a later write of the table clears


@dataclass(kw_only=True, slots=True)
class Round:
    """What happened, and what was wrong (empty: nothing)."""

    number: int
    target: str
    task: str
    where: str
    code: str = ""  # the commit that it ran on
    commits: int = 0  # of the stage's, before the kill was due
    moment: float = 0.0  # seconds after the word to go; 0 is a task that ended before
    stage: str = ""  # in which it was killed, by the ledger's rows
    survived: bool = False  # the run went on to its end: Spark tried the task again, or the kill came too late
    seconds_again: float = 0.0
    queries: int = 0
    inconsistent: int = 0
    lost: int = 0  # rows
    doubled: int = 0
    strays: int = 0  # uncommitted files, which a vacuum then removed
    wrong: list[str] = field(default_factory=list)


class Reader:
    """The warm reader's process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "benchmarks.kill_reader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def look_at(self, root: Path) -> None:
        self._say(str(root))

    def stop(self) -> dict[str, int]:
        """States seen since, with how often."""
        self._say(".")
        assert self.process.stdout is not None, "it was asked for"
        answer = json.loads(self.process.stdout.readline())
        return {str(state): int(times) for state, times in answer["states"].items()}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None, "it was asked for"
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def rounds(spark: SparkSession, prepared: dict[str, Prepared], folder: Path, numbers: range, seed: int) -> Iterator[Round]:
    """One after the other; a round's folder is gone afterwards unless something was wrong."""
    reader, numbers_left = Reader(), iter(numbers)
    victim = _next(prepared, folder, next(numbers_left, None), seed)
    following: Victim | None = None
    try:
        while victim is not None:
            found = struck(victim, reader, random.Random(f"{seed}:{victim.number}:process"))  # noqa: S311
            following = _next(prepared, folder, next(numbers_left, None), seed)
            again(spark, prepared[found.task], victim.root, found)
            states = reader.stop()
            if left := victim.left_over():
                found.wrong.append(f"{len(left)} processes left {kill_strike.LINGER:.0f} s after the driver ended")
            victim.end()
            check(found, prepared[found.task], victim.root, states)
            vacuum(spark, victim.root, found)
            if not found.wrong:
                shutil.rmtree(victim.root)
            spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]  # it keeps the plans of 15 tables of each round
            victim, following = following, None
            yield found
    finally:
        reader.close()
        for unfinished in (victim, following):
            if unfinished is not None:
                unfinished.end()


def _next(prepared: dict[str, Prepared], folder: Path, number: int | None, seed: int) -> Victim | None:
    if number is None:
        return None
    plan = PLANS[number % len(PLANS)]
    task = prepared[plan.task]
    return started(task, plan, moment(task.commits, plan.where, random.Random(f"{seed}:{number}")), folder, number)  # noqa: S311


def struck(victim: Victim, reader: Reader, draw: random.Random) -> Round:
    """The victim told to go and killed; its driver has ended."""
    found = Round(number=victim.number, **asdict(victim.plan))
    victim.wait_until_ready()
    reader.look_at(victim.root)
    found.commits, found.moment = victim.at.commits, strike(victim, draw)
    found.stage = stage_of(victim.root, f"killed-{victim.number}", victim.at.stage)
    try:
        victim.process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        found.wrong.append(f"the driver still runs {LONGEST:.0f} s after the kill of its {found.target}")
        victim.end()
    found.survived = victim.survived()
    return found


def again(spark: SparkSession, prepared: Prepared, root: Path, found: Round) -> None:
    """The same work in this process, under a lease like any command."""
    context = kill_lake.context_of(spark, root, prepared.raw, prepared.catalog, f"again-{found.number}")
    begun = time.perf_counter()
    with leases.held(context.lake, "run day", context.run_id):
        kill_lake.work(context, prepared.days, prepared.cutoff)
    found.seconds_again = time.perf_counter() - begun


def check(found: Round, prepared: Prepared, root: Path, states: Mapping[str, int]) -> None:
    """Compares with the undisturbed run; a state that a reader saw is one before the task or after it."""
    after = kill_lake.digests(root)
    for table in after:
        if after[table] != prepared.after[table]:
            found.wrong.append(f"{table}: {after[table]}, undisturbed {prepared.after[table]}")
            rows, expected = (int(digest.partition(":")[0]) for digest in (after[table], prepared.after[table]))
            found.lost, found.doubled = found.lost + max(0, expected - rows), found.doubled + max(0, rows - expected)
    found.wrong += [f"active file is not there: {url}" for url in kill_lake.unreadable_files(root)]
    whole = [kill_lake.whole_days(prepared.template), kill_lake.whole_days(root)]
    found.queries = sum(states.values())
    found.inconsistent = sum(times for state, times in states.items() if json.loads(state) not in whole)
    if found.inconsistent:
        found.wrong.append(f"{found.inconsistent} of {found.queries} looks saw something between the days' states")
    left = kill_lake.strays(root)
    found.strays = sum(path.endswith(UNCOMMITTED) for path in left)
    found.wrong += [f"left over: {path}" for path in left if not path.endswith(UNCOMMITTED)]


def vacuum(spark: SparkSession, root: Path, found: Round) -> None:
    """Uncommitted files are gone after it, and every active one is still there; unfinished log entries go with a write, once they are old."""
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    for table in sorted({path.partition("/")[0] for path in kill_lake.strays(root) if path.endswith(DATA)}):
        DeltaTable.forPath(spark, str(root / table)).vacuum(0)
    for path in root.glob("*/_delta_log/.*.tmp*"):
        os.utime(path, (0, 0))
        clear_unfinished(path.parent.parent)
    found.wrong += [f"left over by a vacuum: {path}" for path in kill_lake.strays(root)]
    found.wrong += [f"active file is gone after a vacuum: {url}" for url in kill_lake.unreadable_files(root)]


def summary(rounds: list[dict[str, Any]]) -> str:
    """Counts as a text table."""
    good = sum(not r["wrong"] for r in rounds)
    lines = [
        f"{len(rounds)} kills; run again, {good} ended with every table as undisturbed; rows lost {_sum(rounds, 'lost')}, doubled {_sum(rounds, 'doubled')}"
    ]
    stages = ("validate_sources", "build_user_features", "encode_users", "audit_tokens", "publish_tokens", "after the last stage")
    lines.append(f"{'killed in':24}" + "".join(f"{target:>10}" for target in ("driver", "jvm", "executor", "worker")))
    for stage in stages:
        hit = Counter(r["target"] for r in rounds if r["stage"] == stage and r["moment"] > 0)
        lines.append(f"{stage:24}" + "".join(f"{hit[target]:>10}" for target in ("driver", "jvm", "executor", "worker")))
    lines.append(f"not struck: {sum(r['moment'] == 0 for r in rounds)}; runs that went on to their end: {sum(r['survived'] for r in rounds)}")
    lines.append(
        f"aimed between superseding and publishing: {sum(r['where'] == 'gap' for r in rounds)}, after it: {sum(r['where'] == 'published' for r in rounds)}"
    )
    lines.append(f"reader's looks: {_sum(rounds, 'queries'):,}, inconsistent {_sum(rounds, 'inconsistent')}")
    lines.append(f"uncommitted files left: {_sum(rounds, 'strays')}, all removed by a vacuum unless said otherwise below")
    lines.append(f"code: {', '.join(sorted({r['code'] for r in rounds}))}")
    return "\n".join([*lines, *(f"round {r['number']}: {fault}" for r in rounds for fault in r["wrong"])]) + "\n"


def _sum(rounds: list[dict[str, Any]], name: str) -> int:
    return sum(int(r[name]) for r in rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-kills"))
    parser.add_argument("--out", type=Path, default=Path("/tmp/u2qt-kills.jsonl"))
    arguments = parser.parse_args()
    known = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    code = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    if len(known) < arguments.rounds:
        shutil.rmtree(arguments.work, ignore_errors=True)
        spark = build_session("local[1]", WARM)
        try:
            prepared = kill_lake.prepare(spark, arguments.work)
            for played in rounds(spark, prepared, arguments.work, range(len(known), arguments.rounds), arguments.seed):
                played.code = code
                known.append(asdict(played))
                with arguments.out.open("a") as out:
                    out.write(json.dumps(known[-1]) + "\n")
        finally:
            spark.stop()
    sys.stdout.write(summary(known))


if __name__ == "__main__":
    main()
