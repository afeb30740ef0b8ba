"""Simulated lakehouses to measure on: two days of N users, the first trained on, the second left for the measurement."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

FIRST, SECOND = "2024-01-01", "2024-01-02"
U2QT = str(Path(sys.executable).with_name("u2qt"))


@dataclass(kw_only=True, slots=True)
class Peak:
    """Greatest resident sizes seen, in MB, per kind of process; workers summed."""

    jvm: float = 0.0
    driver_python: float = 0.0
    workers: float = 0.0
    largest_worker: float = 0.0
    commands: set[str] = field(default_factory=set)


def prepared(work: Path, users: int) -> Path:
    """A folder with raw/ and lakehouse/, day one through `build`, a tokenizer trained on it and promoted."""
    folder = work / f"users-{users}"
    if (folder / "ready").exists():
        return folder
    run("simulate", "--users", str(users), "--days", "2", "--start", FIRST, "--dirt", "0.01", "--out", str(folder))
    run("init", *where(folder))
    run("validate", "--ds", FIRST, *where(folder))
    run("build", "--ds", FIRST, *where(folder))
    run("train", "--from", FIRST, "--to", FIRST, "--tokenizer-version", "bench", "--size", "demo", *where(folder))
    run("tokenizer", "promote", "bench", *where(folder))
    (folder / "ready").touch()
    return folder


def where(folder: Path) -> list[str]:
    return ["--root", str(folder / "lakehouse"), "--input", str(folder / "raw")]


def run(*arguments: str) -> None:
    """One `u2qt` command, quietly; its output is shown where it fails."""
    done = subprocess.run([U2QT, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"u2qt {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")


def run_together(*commands: Sequence[str]) -> None:
    """`u2qt` commands one after the other in one process, quietly: they share the start of the JVM and of Python."""
    calls = "import json, sys; from jobs.cli import call; sys.exit(next((code for c in json.loads(sys.argv[1]) if (code := call(c))), 0))"
    done = subprocess.run([sys.executable, "-c", calls, json.dumps(commands)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"u2qt {' / '.join(' '.join(c) for c in commands)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")


@contextmanager
def watched(every: float = 0.2) -> Iterator[Peak]:
    """Samples this process's children (the `u2qt` command, its JVM, the JVM's Python workers) from /proc."""
    peak, stop = Peak(), threading.Event()
    thread = threading.Thread(target=_sample, args=(peak, stop, every), daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _sample(peak: Peak, stop: threading.Event, every: float) -> None:
    while not stop.is_set():
        workers = []
        for pid, command in descendants(os.getpid()):
            size = _resident(pid)
            if "java" in command.split("\0")[0]:
                peak.jvm = max(peak.jvm, size)
            elif "pyspark.daemon" in command:
                workers.append(size)
            elif "u2qt" in command:
                peak.driver_python = max(peak.driver_python, size)
        peak.workers = max(peak.workers, sum(workers))
        peak.largest_worker = max(peak.largest_worker, *workers, 0.0)
        time.sleep(every)


def descendants(root: int) -> Iterator[tuple[int, str]]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue  # ended while we looked
    for pid in parents:
        above = parents.get(pid)
        while above and above != root:
            above = parents.get(above)
        if above == root:
            try:
                yield pid, (Path("/proc") / str(pid) / "cmdline").read_text()
            except OSError:
                continue


def _resident(pid: int) -> float:
    try:
        pages = int((Path("/proc") / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
