"""What the gate of one source costs: great-expectations against one hand-written aggregate, Spark jobs and seconds."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.lakes import prepared
from jobs import quality
from jobs.delta_tables import Lakehouse
from jobs.session import build_session
from schemas.catalog_files import load_catalog


def aggregate(rows: DataFrame) -> None:
    """The same facts as the suite of `bill`, in one pass."""
    rows.agg(
        F.count(F.lit(1)),
        *(F.count_if(F.col(name).isNull()) for name in rows.columns),
        F.min("amount"),
        F.max("amount"),
        F.count_if(~F.col("currency").isin("CNY", "HKD", "USD")),
    ).collect()


def measured(spark: SparkSession, group: str, work: Callable[[], object]) -> tuple[float, int]:
    spark.sparkContext.setJobGroup(group, group)
    clock = time.perf_counter()
    work()
    seconds = time.perf_counter() - clock
    return seconds, len(spark.sparkContext.statusTracker().getJobIdsForGroup(group))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/u2qt-bench"))
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder = prepared(arguments.work, arguments.users)
    spark, catalog = build_session(), load_catalog()
    rows = Lakehouse(spark, str(folder / "lakehouse")).read("source_bill")
    suite = quality.load_suite(catalog.suites["bill"], "bill.json")
    found: dict[str, list[tuple[float, int]]] = {"gx": [], "aggregate": []}
    for turn in range(arguments.rounds + 1):  # the first turn warms up
        for name, work in (("gx", lambda: quality.evaluate(rows, suite)), ("aggregate", lambda: aggregate(rows))):
            result = measured(spark, f"{name}-{turn}", work)
            if turn:
                found[name].append(result)
    spark.stop()
    print(f"\nsuite of `bill`, {len(suite.expectations)} expectations, {arguments.rounds} rounds, interleaved")
    for name, results in found.items():
        print(f"{name:10}{statistics.median(s for s, _ in results):8.2f} s {statistics.median(j for _, j in results):6.0f} Spark jobs")
    ratios = sorted(g[0] / a[0] for g, a in zip(found["gx"], found["aggregate"], strict=True))
    print(f"ratio {statistics.median(ratios):.1f} (from {ratios[0]:.1f} to {ratios[-1]:.1f})")


if __name__ == "__main__":
    main()
