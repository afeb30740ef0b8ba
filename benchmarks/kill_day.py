"""Kills days: SIGKILL to the driver's Python, its JVM, an executor or a Python worker at a random moment, then the day again.

    python -m benchmarks.kill_day --rounds 200 --out /tmp/kills.jsonl

A round copies a prepared lakehouse, starts a task (a new day, or a repair that supersedes rows), kills one of its processes and
works again in another process; a warm reader looks at `user_tokens` all the while. Then every table must be as after an
undisturbed run, every look must have seen whole days, no process and no stray file may be left. One JSON line a round; called
again, it goes on from what the file has. A third of the kills is aimed at the gap between superseding and publishing.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pyspark.sql import SparkSession

from benchmarks import kill_lake
from benchmarks.kill_lake import Prepared
from benchmarks.kill_victim import FAST_START
from benchmarks.lakes import descendants
from jobs import leases
from jobs.session import build_session

PLANS = (  # target, task, where: "any" moment, or the gap between two commits of a repair
    *(("driver", task, "any") for task in ("day", "repair")),
    *(("jvm", task, "any") for task in ("day", "repair")),
    *(("worker", task, "any") for task in ("day", "repair")),
    *(("executor", task, "any") for task in ("day", "repair")),
    ("driver", "repair", "gap"),
    ("jvm", "repair", "gap"),
    ("driver", "repair", "published"),
    ("jvm", "day", "published"),
)
AIMED_AT = {"gap": "user_tokens_superseded", "published": "user_tokens"}  # kill when this table has a new commit
UNDISTURBED = 20.0  # seconds over which moments are drawn: about a task of a fresh process on 2 busy cores
LONGEST = 180.0  # seconds that a task may take on a busy machine
LINGER = 30.0  # seconds after which a process of a killed run counts as left over


@dataclass(kw_only=True, slots=True)
class Round:
    """What happened, and what was wrong (empty: nothing)."""

    number: int
    target: str
    task: str
    where: str
    moment: float = 0.0  # seconds after the word to go
    stage: str = ""  # that had begun last, by the ledger's rows
    survived: bool = False  # the run went on to its end: Spark tried the task again, or the kill came too late
    seconds_again: float = 0.0
    queries: int = 0
    inconsistent: int = 0
    strays: int = 0  # uncommitted files that only a vacuum removes
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Victim:
    """A process that has its session, or is making it, and waits for the word to go."""

    number: int
    plan: tuple[str, str, str]
    root: Path
    process: "subprocess.Popen[str]"

    def wait_until_ready(self) -> None:
        if self.said() != "ready\n":
            raise RuntimeError(f"{' '.join(map(str, self.process.args))} did not start; run it by hand to see why")  # type: ignore[arg-type]

    def go(self) -> None:
        assert self.process.stdin is not None, "it was asked for"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def said(self) -> str:
        assert self.process.stdout is not None, "it was asked for"
        return self.process.stdout.readline()

    def end(self) -> None:
        for pid in (self.process.pid, *_session(self.process.pid)):
            _kill(pid)
        self.process.wait()


def started(prepared: dict[str, Prepared], folder: Path, number: int) -> Victim:
    """Of a round to come: its session takes longer than its work, so it is made while the round before is checked."""
    target, task, _ = plan = PLANS[number % len(PLANS)]
    of, root = prepared[task], folder / f"round-{number}"
    shutil.copytree(of.template, root)
    master = "local-cluster[1,1,1024]" if target == "executor" else "local[2]"
    arguments = [root, of.raw, of.catalog, of.days.first, of.cutoff.isoformat() if of.cutoff else "-", f"killed-{number}", master]
    command = [sys.executable, "-m", "benchmarks.kill_victim", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    return Victim(number=number, plan=plan, root=root, process=process)


def rounds(spark: SparkSession, prepared: dict[str, Prepared], folder: Path, numbers: range, seed: int) -> Iterator[Round]:
    """One after the other; a round's folder is gone afterwards unless something was wrong."""
    reader, numbers_left = Reader(), iter(numbers)
    victim = started(prepared, folder, next(numbers_left)) if numbers else None
    try:
        while victim is not None:
            draw = random.Random(f"{seed}:{victim.number}")  # noqa: S311
            found = struck(victim, reader, draw)
            following = next(numbers_left, None)
            struck_one, victim = victim, started(prepared, folder, following) if following is not None else None
            again(spark, prepared[found.task], struck_one.root, found)
            _check(found, prepared[found.task], struck_one.root, reader.stop())
            if not found.wrong:
                shutil.rmtree(struck_one.root)
            yield found
    finally:
        reader.close()
        if victim is not None:
            victim.end()


def struck(victim: Victim, reader: Reader, draw: random.Random) -> Round:
    """The victim told to go, killed, and gone."""
    target, task, where = victim.plan
    found = Round(number=victim.number, target=target, task=task, where=where)
    victim.wait_until_ready()
    reader.look_at(victim.root)
    try:
        _strike(victim, found, draw)
        _ends(victim.process, found)
    finally:
        victim.end()
    return found


def again(spark: SparkSession, prepared: Prepared, root: Path, found: Round) -> None:
    """The same work in this process, under a lease like any command."""
    context = kill_lake.context_of(spark, root, prepared.raw, prepared.catalog, f"again-{found.number}")
    begun = time.perf_counter()
    with leases.held(context.lake, "run day", context.run_id):
        kill_lake.work(context, prepared.days, prepared.cutoff)
    found.seconds_again = time.perf_counter() - begun


def _strike(victim: Victim, found: Round, draw: random.Random) -> None:
    """Waits for the moment, then kills. A worker may have to appear first, a commit to be seen."""
    family = dict(descendants(victim.process.pid))
    log = victim.root / AIMED_AT.get(found.where, "runs") / "_delta_log"
    commits = len(list(log.glob("*.json")))
    wait = draw.uniform(0, UNDISTURBED) if found.where == "any" else 0.0
    victim.go()
    begun = time.perf_counter()
    while victim.process.poll() is None and (elapsed := time.perf_counter() - begun) < LONGEST:
        if elapsed >= wait and (found.where == "any" or len(list(log.glob("*.json"))) > commits):
            pids = _pids(victim.process.pid, found.target, family)
            if pids:
                _kill(draw.choice(pids))
                found.moment, found.stage = elapsed, _last_stage(victim.root)
                return
        time.sleep(0.002 if found.where != "any" else 0.01)


def _pids(driver: int, target: str, family: dict[int, str]) -> list[int]:
    """Processes of the driver that are such a target now."""
    if target == "driver":
        return [driver]
    if target in ("jvm", "executor"):
        word = "CoarseGrainedExecutorBackend" if target == "executor" else "SparkSubmit"
        return [pid for pid, command in family.items() if word in command]
    return [pid for pid, command in descendants(driver) if "pyspark.daemon" in command]


def _last_stage(root: Path) -> str:
    """The stage after the last one that the ledger has of the killed run."""
    rows = [row for row in kill_lake.rows_of(root / "runs") if str(row["run_id"]).startswith("killed-")]
    order = ("validate_sources", "build_user_features", "encode_users", "audit_tokens", "publish_tokens", "after the last stage")
    done = [str(row["stage"]) for row in rows]
    return next((stage for stage in order if stage not in done), order[-1])


def _ends(process: "subprocess.Popen[str]", found: Round) -> None:
    """The killed run's processes end by themselves; what it said tells whether it came to its end."""
    try:
        process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        found.wrong.append(f"the driver still runs {LONGEST:.0f} s after the kill of its {found.target}")
        return
    assert process.stdout is not None, "it was asked for"
    found.survived = process.stdout.read().endswith("done\n")
    deadline = time.monotonic() + LINGER
    while (left := _session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        found.wrong.append(f"{len(left)} processes left {LINGER:.0f} s after the driver ended")
        for pid in left:
            _kill(pid)


def _session(leader: int) -> list[int]:
    """Processes of the session that the victim led; zombies don't count."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue  # ended while we looked
            if int(session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def _check(found: Round, prepared: Prepared, root: Path, states: dict[str, int]) -> None:
    after = kill_lake.digests(root)
    found.wrong += [f"{table}: {after[table]}, undisturbed {prepared.after[table]}" for table in after if after[table] != prepared.after[table]]
    found.wrong += [f"active file is not there: {url}" for url in kill_lake.unreadable_files(root)]
    whole = _whole_states(prepared, root)
    found.queries = sum(states.values())
    found.inconsistent = sum(times for state, times in states.items() if json.loads(state) not in whole)
    if found.inconsistent:
        found.wrong.append(f"{found.inconsistent} of {found.queries} looks saw something between the days' states")
    left = kill_lake.strays(root)
    found.strays = sum(path.endswith((".parquet", ".tmp")) for path in left)
    found.wrong += [f"left over: {path}" for path in left if not path.endswith((".parquet", ".tmp"))]


def _whole_states(prepared: Prepared, root: Path) -> list[dict[str, str]]:
    """What user_tokens may look like: before the task, or after it."""
    return [kill_lake.whole_days(prepared.template), kill_lake.whole_days(root)]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-kills"))
    parser.add_argument("--out", type=Path, default=Path("/tmp/u2qt-kills.jsonl"))
    arguments = parser.parse_args()
    known = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    shutil.rmtree(arguments.work, ignore_errors=True)
    spark = build_session("local[1]", FAST_START)
    try:
        prepared = kill_lake.prepare(spark, arguments.work)
        for played in rounds(spark, prepared, arguments.work, range(len(known), arguments.rounds), arguments.seed):
            line = json.dumps(asdict(played))
            with arguments.out.open("a") as out:
                out.write(line + "\n")
            known.append(json.loads(line))
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    finally:
        spark.stop()
    sys.stdout.write(summary(known))


def summary(rounds: list[dict[str, object]]) -> str:
    """Counts as a text table."""
    lines = [f"{len(rounds)} kills, {sum(not r['wrong'] for r in rounds)} after which everything was as undisturbed"]
    targets, stages = Counter(str(r["target"]) for r in rounds), Counter(str(r["stage"]) for r in rounds)
    lines.append("killed: " + ", ".join(f"{name} {count}" for name, count in targets.most_common()))
    lines.append("in or before: " + ", ".join(f"{name} {count}" for name, count in stages.most_common()))
    lines.append(f"between superseding and publishing: {sum(r['where'] == 'gap' for r in rounds)}")
    lines.append(f"runs that went on to their end: {sum(bool(r['survived']) for r in rounds)}")
    lines.append(f"reader's looks: {sum(int(str(r['queries'])) for r in rounds):,}, inconsistent {sum(int(str(r['inconsistent'])) for r in rounds)}")
    lines.append(f"uncommitted files, for a vacuum to remove: {sum(int(str(r['strays'])) for r in rounds)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
