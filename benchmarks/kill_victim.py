"""The process that is killed: the stages of a day from one on, on a session that is started before the word to go.

    python -m benchmarks.kill_victim ROOT RAW CATALOG DAY CUTOFF|- RUN_ID MASTER STAGE

Prints `ready`, waits for a line on standard input, works, prints `done`. Holds a lease like every command.
"""

import sys
from datetime import datetime
from pathlib import Path

from benchmarks.kill_lake import context_of, work
from jobs import leases
from jobs.session import build_session
from schemas import keys
from schemas.keys import Days

FAST_START = {
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",  # it makes two jobs of one
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.databricks.delta.snapshotPartitions": "1",
}


def main() -> None:
    root, raw, catalog, day, cutoff, run_id, master, stage = sys.argv[1:]
    spark = build_session(master, FAST_START)
    context = context_of(spark, Path(root), Path(raw), Path(catalog), run_id)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    ds = keys.day(day)
    with leases.held(context.lake, "run day", run_id):
        work(context, Days(ds, ds), None if cutoff == "-" else datetime.fromisoformat(cutoff), int(stage))
    sys.stdout.write("done\n")
    sys.stdout.flush()
    spark.stop()


if __name__ == "__main__":
    main()
