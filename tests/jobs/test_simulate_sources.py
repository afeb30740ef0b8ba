"""The simulator: same rows from the same seed, the stated distributions, planted dirt that validation finds again."""

from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import simulate_sources
from jobs import simulated_behaviour as behaviour
from jobs.context import Context
from jobs.errors import BadInput
from jobs.simulate_sources import calendar, raw_source
from jobs.simulated_behaviour import Draws
from schemas.quarantine import quarantine_table_name

START = date(2024, 1, 1)  # a Monday


def events_of(spark: SparkSession, source: str, users: int, days: int, partitions: int = 2, seed: int = 1) -> DataFrame:
    """Simulated events of one source, computed in `partitions` partitions."""
    draws = Draws(seed=seed)
    people = behaviour.users(spark.range(users).repartition(partitions), draws)
    return behaviour.events(behaviour.active_days(people, calendar(spark.range(days), START), draws), source, draws)


@pytest.mark.parametrize("source", ["bill", "app", "profile"])
def test_rows_follow_from_the_seed_alone(spark: SparkSession, source: str) -> None:
    """Other partitions give the same rows, another seed gives others."""

    def rows(partitions: int, seed: int) -> list[str]:
        draws = Draws(seed=seed)
        people = behaviour.users(spark.range(50).repartition(partitions), draws)
        frame = raw_source(source, people, calendar(spark.range(3), START), draws)
        return sorted(row[0] for row in frame.select(F.to_json(F.struct("*"))).collect())

    assert rows(1, 7) == rows(5, 7) != rows(1, 8)


def test_about_half_the_users_are_active_and_more_on_weekends(spark: SparkSession) -> None:
    """Between 45% and 60% over a week; Saturday above Wednesday."""
    draws = Draws(seed=3)
    people = behaviour.users(spark.range(3000), draws)
    active = behaviour.active_days(people, calendar(spark.range(7), START), draws)
    by_day = {row.day: row["count"] / 3000 for row in active.groupBy("day").count().collect()}
    assert 0.45 < sum(by_day.values()) / 7 < 0.6
    assert by_day[5] > by_day[2] + 0.05


def test_a_slice_has_at_most_ten_events_and_six_in_the_middle(spark: SparkSession) -> None:
    """Over all users with the source on a day; 2% of the rows come a day late."""
    events = events_of(spark, "mini_program", 2000, 3)
    counts = events.groupBy("user", "day").count()
    row = counts.agg(F.max("count").alias("most"), F.median("count").alias("median"), F.min("count").alias("least")).first()
    assert row is not None
    assert (row["least"], row["median"], row["most"]) == (1, 6.0, 10)
    late = events.agg(F.avg(F.col("late").cast("double"))).first()
    assert late is not None
    assert 0.015 < late[0] < 0.025


def test_items_have_a_long_tail(spark: SparkSession) -> None:
    """A tenth of the items takes over a third of the events."""
    counts = sorted((row["count"] for row in events_of(spark, "bill", 2000, 2).groupBy("item").count().collect()), reverse=True)
    assert sum(counts[:40]) > 0.34 * sum(counts)


def test_interests_show_in_several_sources_and_habits_in_one(spark: SparkSession) -> None:
    """Bills and searches of a user-day share their commonest category far more often than those of strangers would."""
    commonest = [events_of(spark, source, 1500, 1).groupBy("user").agg(F.mode("category").alias(source)) for source in ("bill", "search")]
    joined = commonest[0].join(commonest[1], on="user", how="inner")
    same = joined.agg(F.avg((F.col("bill") == F.col("search")).cast("double"))).first()
    assert same is not None
    assert same[0] > 0.4  # strangers: about 0.15


def test_planted_dirt_is_found_again(published: Context, simulated: Path) -> None:
    """Per source, day of delivery and reason: as many quarantined rows as planted; as many duplicates; the rest is clean."""
    truth = published.spark.read.parquet(str(simulated / "truth" / "planted")).collect()
    kinds = {row.kind for row in truth}
    assert {"null_key", "unparsable_time", "future_dated", "control_characters", "right_to_left_and_emoji"} <= kinds
    for source in published.catalog.sources:
        planted: dict[tuple[date, str], int] = {}
        for row in truth:
            if row.source == source.name and row.reason:
                for reason in (row.reason, *(("available_before_event:available_time",) if row.kind == "future_dated" else ())):
                    planted[row.delivered_ds, reason] = planted.get((row.delivered_ds, reason), 0) + 1
        reasons = published.lake.read(quarantine_table_name(source.name)).select("delivered_ds", F.explode("reasons").alias("reason"))
        found = {(row.delivered_ds, row.reason): row["count"] for row in reasons.groupBy("delivered_ds", "reason").count().collect()}
        assert found == planted, source.name
    duplicates = published.lake.read("deliveries").agg(F.sum("duplicates")).first()
    assert duplicates is not None
    assert duplicates[0] == sum(row.outcome == "duplicate" for row in truth)


def test_labels_and_truth_lie_outside_every_input_path(published: Context, simulated: Path) -> None:
    """The input root holds the six sources and nothing else; declared paths start there."""
    assert {folder.name for folder in (simulated / "raw").iterdir() if folder.is_dir()} == {s.name for s in published.catalog.sources}
    assert all(not s.input.path.startswith(("/", ".")) and ".." not in s.input.path for s in published.catalog.sources)


def test_labels_have_one_row_per_user_and_day(published: Context, simulated: Path) -> None:
    """The coming week's label is known for every user and day; both labels have both classes."""
    week = published.spark.read.parquet(str(simulated / "labels" / "coming_week"))
    assert week.count() == 60 * 3 == week.select("user_id", "at").distinct().count()
    attribute = published.spark.read.parquet(str(simulated / "labels" / "attribute"))
    assert attribute.count() == 60
    assert all(frame.select("label").distinct().count() == 2 for frame in (week, attribute))


@pytest.mark.parametrize(("users", "days", "dirt"), [(29, 2, 0.0), (30, 0, 0.0), (30, 1, 0.6), (30, 1, -0.1)])
def test_sizes_out_of_range_are_refused(spark: SparkSession, tmp_path: Path, users: int, days: int, dirt: float) -> None:
    """Found and expected stand in the message; nothing is written."""
    with pytest.raises(BadInput, match="expected at least 30 users"):
        simulate_sources.run(spark, out=tmp_path / "new", users=users, days=days, seed=1, start=START, dirt=dirt)
    assert not (tmp_path / "new").exists()


def test_an_existing_folder_is_not_written_over(spark: SparkSession, tmp_path: Path) -> None:
    """The way out is another --out."""
    (tmp_path / "raw").mkdir()
    with pytest.raises(BadInput, match="exists already"):
        simulate_sources.run(spark, out=tmp_path, users=30, days=1, seed=1, start=START)
