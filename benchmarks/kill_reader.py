"""A warm reader: looks at the published days of a lakehouse again and again, without Spark.

    python -m benchmarks.kill_reader

Each line on standard input is a root to look at from now on, `.` to stop looking; each answer line is JSON: the root, the
queries made of it, and every distinct state seen (ds -> digest), with how often.
"""

import json
import select
import sys
from collections import Counter
from pathlib import Path

from benchmarks.kill_lake import whole_days

PAUSE = 0.1  # seconds between two looks: the machine has other work


def main() -> None:
    root: Path | None = None
    seen: Counter[str] = Counter()
    while True:
        if select.select([sys.stdin], [], [], PAUSE if root else None)[0]:
            line = sys.stdin.readline().strip()
            if root is not None:
                sys.stdout.write(json.dumps({"root": str(root), "queries": seen.total(), "states": seen}) + "\n")
                sys.stdout.flush()
            if not line:
                return
            root, seen = (None if line == "." else Path(line)), Counter()
        if root is not None:
            seen[json.dumps(whole_days(root), sort_keys=True)] += 1


if __name__ == "__main__":
    main()
