"""Simulates the six default sources as their owners would deliver them, with labels and a truth table of planted dirt.

Writes OUT/raw/<source>/delivered_ds=D/ (parquet; app as CSV, search as JSON), and, apart from it so that no input path
of a catalog reaches them, OUT/labels/{attribute,coming_week} and OUT/truth/planted. The same seed gives the same rows,
whatever the partitions or cores. Refuses an OUT/raw that exists.
"""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from jobs import simulated_behaviour as behaviour
from jobs import simulated_deliveries as deliveries
from jobs import simulated_dirt as dirt_on
from jobs.errors import BadInput
from jobs.simulated_behaviour import Draws

FORMATS = {"app": "csv", "search": "json"}  # the others are parquet
USERS_PER_FILE = 20_000
LABEL_DAYS = 7
MIN_USERS = 30  # fewer leave days without any row in some source


def raw_source(source: str, users: DataFrame, days: DataFrame, draws: Draws, late: float = behaviour.LATE_SHARE) -> DataFrame:
    """Clean raw rows of one source, with KEPT columns beside them."""
    if source == "profile":
        return deliveries.profile(users, days, draws)
    active = behaviour.active_days(users, days, draws)
    return deliveries.EVENT_SOURCES[source](behaviour.events(active, source, draws, late), draws)


def calendar(numbers: DataFrame, start: date) -> DataFrame:
    """From `id`: day (from 0) and ds."""
    return numbers.select(F.col("id").cast("int").alias("day"), F.date_add(F.lit(start), F.col("id").cast("int")).alias("ds"))


def run(
    spark: SparkSession, *, out: Path, users: int, days: int, seed: int, start: date, dirt: float = 0.0, late: float = behaviour.LATE_SHARE
) -> Mapping[str, int]:
    """Rows written per source. Raises `BadInput` for sizes out of range and for a folder that is in use."""
    _check(out, users, days, dirt, late)
    draws = Draws(seed=seed)
    people = behaviour.users(spark.range(users), draws)
    dates = calendar(spark.range(days), start)
    written, planted = {}, []
    for source in (*deliveries.EVENT_SOURCES, "profile"):
        rows = raw_source(source, people, dates, draws, late)
        rows = rows.where(F.date_diff("delivered_ds", F.lit(start)) < days)  # late rows of the last day are still to come
        marked = dirt_on.marked(rows, source, dirt, draws)
        planted.append(dirt_on.truth(marked, source))
        written[source] = _write(dirt_on.spoilt(marked, source), source, out, users)
    _write_labels(spark, people, out, days, start, draws)
    if dirt:
        every = planted[0]
        for one in planted[1:]:
            every = every.unionByName(one)
        every.coalesce(1).write.parquet(str(out / "truth" / "planted"))
    return written


def _check(out: Path, users: int, days: int, dirt: float, late: float) -> None:
    if users < MIN_USERS or days < 1 or not 0 <= dirt <= 0.5 or not 0 <= late <= 0.5:
        raise BadInput(
            f"simulate: found --users {users} --days {days} --dirt {dirt} --late {late}, "
            f"expected at least {MIN_USERS} users, 1 day, dirt and late from 0 to 0.5"
        )
    taken = next((folder for folder in (out / "raw", out / "labels", out / "truth") if folder.exists()), None)
    if taken is not None:
        raise BadInput(f"{taken}: exists already, expected a new folder (nothing is overwritten); remove it or give another --out")


def _write(rows: DataFrame, source: str, out: Path, users: int) -> int:
    """One file per day and 20,000 users; the count is observed while writing."""
    shards = -(-users // USERS_PER_FILE)
    count = Observation()
    dropped = [name for name in (*deliveries.KEPT, "dirt") if name != "delivered_ds"]
    placed = rows.repartition("delivered_ds", F.pmod(F.col("user"), F.lit(shards))).drop(*dropped)
    writer = placed.observe(count, F.count(F.lit(1)).alias("rows")).write.partitionBy("delivered_ds").format(FORMATS.get(source, "parquet"))
    if FORMATS.get(source) == "csv":
        writer = writer.options(header="true", escape='"', ignoreLeadingWhiteSpace="false", ignoreTrailingWhiteSpace="false")
    writer.save(str(out / "raw" / source))
    return int(count.get["rows"])


def _write_labels(spark: SparkSession, people: DataFrame, out: Path, days: int, start: date, draws: Draws) -> None:
    behaviour.attribute_label(people, draws).coalesce(1).write.parquet(str(out / "labels" / "attribute"))
    ahead = calendar(spark.range(days + LABEL_DAYS), start)
    bills = behaviour.events(behaviour.active_days(people, ahead, draws), "bill", draws)
    label = behaviour.coming_week_label(people, ahead, bills, days - 1)
    label.coalesce(1).write.parquet(str(out / "labels" / "coming_week"))
