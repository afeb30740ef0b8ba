"""A write's own commit: found again in the table's log, once, or the write failed whole. Knows paths and log entries, no lakehouse.

On a file system commits of separate processes serialise on a lock and an object store has its log store; where neither
holds, two drivers can both believe that one version is theirs. What is looked for is a mark that no other commit has.
"""

import re
import time
from contextlib import suppress
from pathlib import Path

from delta.exceptions import DeltaConcurrentModificationException
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from jobs.errors import Infrastructure

CONFLICT = re.compile(r"io\.delta\.exceptions\.((?:Concurrent|MetadataChanged|ProtocolChanged)\w+)")
UNFINISHED = 600.0  # seconds after which nobody is writing a log entry any more


def conflict_of(error: Exception) -> str | None:
    """Delta's name of the conflict that made a commit fail, or None; a write's error may come as Java's own."""
    if isinstance(error, DeltaConcurrentModificationException):
        return type(error).__name__
    match = CONFLICT.search(str(error))
    return match[1] if match else None


def require_once(table: str, entries: list[str], mark: str) -> None:
    """Raises `Infrastructure` unless one of the log entries since the write began has the mark."""
    found = sum(mark in entry for entry in entries)
    if found != 1:
        raise Infrastructure(
            f"table {table}: the {len(entries)} versions since its write began hold this run's commit {found} times, expected once: another driver "
            "wrote over it; run it again, and let one driver at a time commit to this root (`u2qt doctor --root ROOT`)"
        )


def entries_of_files(table: Path, before: int, after: int) -> list[str]:
    """What the log says of the versions after `before`, up to `after`."""
    return [(table / "_delta_log" / f"{version:020d}.json").read_text(encoding="utf-8") for version in range(before + 1, after + 1)]


def entries_of_history(spark: SparkSession, path: str, before: int, after: int) -> list[str]:
    """The same through the log store, of which only it knows where entries lie: the metadata that commits gave themselves."""
    newest = after
    while True:  # others may commit between two looks, and a history of so many entries begins at the newest
        history = DeltaTable.forPath(spark, path).history(max(1, newest - before))
        rows = history.select("version", "userMetadata").collect()
        if min(row["version"] for row in rows) <= before + 1:
            return [row["userMetadata"] or "" for row in rows if before < row["version"] <= after]
        newest = max(row["version"] for row in rows)


def clear_unfinished(table: Path) -> None:
    """Log entries that a process was killed over: no version has them, and no vacuum removes them. The caller holds the commit lock."""
    for path in (table / "_delta_log").glob(".*.tmp*"):
        with suppress(FileNotFoundError):  # a writer that holds no lock of ours finished it
            if time.time() - path.stat().st_mtime > UNFINISHED:
                path.unlink()
