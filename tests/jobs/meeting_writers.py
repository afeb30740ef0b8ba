"""`u2qt` whose writes of user_tokens wait, in the write, until two have come to the folder MEETING.

python tests/jobs/meeting_writers.py MEETING NAME locks|no-locks COMMAND OPTION...

`no-locks` is as on an object store: no commit lock, no day locks, no leases.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from jobs.cli import call
from jobs.delta_tables import Lakehouse

PATIENCE = 200.0  # seconds


def main() -> None:
    meeting, name, locks, *arguments = sys.argv[1:]
    opened, write = Lakehouse.__init__, Lakehouse._write

    def open_lakehouse(self: Lakehouse, *given: Any) -> None:
        opened(self, *given)
        self.is_local = locks == "locks" and self.is_local

    def write_together(self: Lakehouse, table: str, rows: DataFrame, *given: Any) -> int:
        return write(self, table, met(rows, meeting, name) if table == "user_tokens" else rows, *given)

    Lakehouse.__init__ = open_lakehouse  # type: ignore[method-assign]
    Lakehouse._write = write_together  # type: ignore[method-assign]
    raise SystemExit(call(arguments))


def met(rows: DataFrame, meeting: str, name: str) -> DataFrame:
    """The same rows, which come once both writes have begun: each has taken its snapshot of the table by then."""

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        folder = Path(meeting)
        (folder / name).touch()
        deadline = time.monotonic() + PATIENCE
        while len(list(folder.iterdir())) < 2:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name}: nobody else came to write within {PATIENCE:.0f} s")
            time.sleep(0.05)
        yield from batches

    return rows.mapInArrow(wait, rows.schema)


if __name__ == "__main__":
    main()
