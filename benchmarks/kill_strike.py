"""A process that works on a lakehouse, and the kill of one of its processes at a moment that is drawn.

A moment is counted in commits, not in seconds, which a busy machine stretches: after how many commits of the task, and then
which share of the time that the next one took undisturbed. The process begins with the stage in which it will be killed, on a
lakehouse where the stages before it are done: a round costs a third of a whole day, and the run after the kill is of the whole day.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import kill_lake
from benchmarks.kill_lake import Commit, Prepared
from benchmarks.lakes import descendants
from jobs import DAILY_STAGES

LONGEST = 300.0  # seconds that a task may take on a busy machine
LINGER = 30.0  # seconds after which a process of a killed run counts as left over
POLL = 0.03  # seconds: a look costs some milliseconds, and the machine has other work
FRESH = 3.0  # times as long as in the warm session that prepared the task
LAST_SHARE = 0.8  # of the time to the next commit: later kills would often miss it
AIMED_AT = {"gap": ("user_tokens", 0), "published": ("user_tokens", 1), "encoding": ("staged_user_tokens", 0)}  # before the commit of, or the one after it

WORDS = {"jvm": "SparkSubmit", "executor": "CoarseGrainedExecutorBackend", "worker": "pyspark.daemon"}  # of their command lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`where`: anywhere in a stage that is drawn, or a key of `AIMED_AT`."""

    target: str
    task: str
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """After `commits` commits of a stage's beginning and `seconds` more of its undisturbed pace."""

    stage: int
    commits: int
    seconds: float
    before: float  # undisturbed seconds up to the last of those commits

    def delay(self, elapsed: float) -> float:
        """Seconds to wait after the last of the commits, at the pace seen until then."""
        return self.seconds * max(1.0, elapsed / self.before if self.before else FRESH)


def moment(commits: tuple[Commit, ...], where: str, draw: random.Random) -> Moment:
    """Every stage is as likely as every other, and in a stage the time before every commit."""
    if where == "any":
        stage = draw.choice(sorted({commit.stage for commit in commits}))
        number = draw.choice([n for n, commit in enumerate(commits) if commit.stage == stage])
    else:
        table, later = AIMED_AT[where]
        number = next(n for n, commit in enumerate(commits) if commit.table == table) + later
    stage = commits[number].stage
    of_stage = [commit.seconds for commit in commits[:number] if commit.stage == stage]
    return Moment(stage=stage, commits=len(of_stage), seconds=draw.uniform(0, LAST_SHARE) * commits[number].seconds, before=sum(of_stage))


@dataclass(frozen=True, kw_only=True, slots=True)
class Victim:
    """A process that has its session, or is making it, and waits for the word to go."""

    number: int
    plan: Plan
    at: Moment
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

    def survived(self) -> bool:
        """Whether the run came to its end, once its driver has ended. A JVM that outlives its driver doesn't hold this up."""
        assert self.process.stdout is not None, "it was asked for"
        return self.process.returncode == 0 and self.process.stdout.read().endswith("done\n")

    def left_over(self) -> list[int]:
        """Processes that don't end by themselves within `LINGER`."""
        deadline = time.monotonic() + LINGER
        while (left := in_session(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def end(self) -> None:
        for pid in (self.process.pid, *in_session(self.process.pid)):
            kill(pid)
        self.process.wait()


def started(prepared: Prepared, plan: Plan, at: Moment, folder: Path, number: int) -> Victim:
    """Of a round to come: its session takes longer than its work, so it is made while the round before is checked."""
    root = folder / f"round-{number}"
    shutil.copytree(prepared.starts[at.stage], root)
    master = "local-cluster[1,1,1024]" if plan.target == "executor" else "local[2]"
    task = [root, prepared.raw, prepared.catalog, prepared.days.first, prepared.cutoff.isoformat() if prepared.cutoff else "-"]
    arguments = [*task, f"killed-{number}", master, at.stage]
    command = [sys.executable, "-m", "benchmarks.kill_victim", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    return Victim(number=number, plan=plan, at=at, root=root, process=process)


def strike(victim: Victim, draw: random.Random) -> float:
    """Waits for the moment, then kills: seconds since the word to go, or 0 when the task ended before. A worker may have to appear first."""
    known = kill_lake.commit_count(victim.root)
    victim.go()
    begun = time.perf_counter()
    due: float | None = None
    while victim.process.poll() is None and (elapsed := time.perf_counter() - begun) < LONGEST:
        if due is None and kill_lake.commit_count(victim.root) - known >= victim.at.commits and _pids(victim):
            due = elapsed + victim.at.delay(elapsed)
        if due is not None and elapsed >= due and (pids := _pids(victim)):
            kill(draw.choice(pids))
            return elapsed
        time.sleep(POLL)
    return 0.0


def _pids(victim: Victim) -> list[int]:
    """Processes of the victim that are its target now."""
    driver = victim.process.pid
    if victim.plan.target == "driver":
        return [driver]
    return [pid for pid, command in descendants(driver) if WORDS[victim.plan.target] in command]


def stage_of(root: Path, run_id: str, first: int) -> str:
    """The stage after the last one that the ledger has of a run, which began with the stage numbered `first`."""
    done = {str(row["stage"]) for row in kill_lake.rows_of(root / "runs") if row["run_id"] == run_id}
    return next((stage for stage in DAILY_STAGES[first:] if stage not in done), "after the last stage")


def in_session(leader: int) -> list[int]:
    """Processes of the session that `leader` led; zombies don't count."""
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


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
