"""Labels of a Stack Exchange site: who is asked is known before, the label after, and nothing is guessed."""

from datetime import UTC, date, datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.errors import BadInput
from jobs.stackexchange_rows import COLUMNS, SCHEMAS

SCRIPT = Path(__file__).parents[2] / "examples/stackexchange/labels.py"  # run by its path: petastorm installs a package `examples`
spec = spec_from_file_location("stackexchange_labels", SCRIPT)
assert spec
assert spec.loader
labels = module_from_spec(spec)
spec.loader.exec_module(labels)

AT = datetime(2016, 3, 1, 6, tzinfo=UTC)
DAY, MOMENT = timedelta(days=1), timedelta(microseconds=1)
ROW = "user_id STRING, created_at TIMESTAMP"


def asked(spark: SparkSession, rows: list[Any], outcomes: list[Any]) -> dict[str, bool]:
    moments = spark.createDataFrame([(AT,)], "at TIMESTAMP")
    found = labels.coming_month(moments, spark.createDataFrame(rows, ROW), spark.createDataFrame(outcomes, ROW))
    return {row.user_id: row.label for row in found.collect()}


def test_users_of_the_last_90_days_are_asked_about_the_next_30(spark: SparkSession) -> None:
    """Both ends to the microsecond: a row at `at` is the future, one 90 days before it the past."""
    rows = [("old", AT - 90 * DAY), ("older", AT - 90 * DAY - MOMENT), ("last", AT - MOMENT), ("new", AT)]
    outcomes = [("old", AT), ("last", AT + 30 * DAY), ("older", AT), ("new", AT), ("old", AT + DAY)]
    assert asked(spark, rows, outcomes) == {"old": True, "last": False}


def test_the_future_never_decides_who_is_asked(spark: SparkSession) -> None:
    """Rows from `at` on change labels, never the list of users."""
    rows = [("a", AT - DAY), ("b", AT - 2 * DAY)]
    later = [("c", AT), ("a", AT + DAY)]
    assert asked(spark, rows, rows).keys() == asked(spark, [*rows, *later], [*rows, *later]).keys() == {"a", "b"}


def test_a_question_is_asked_two_days_later_unless_settled_or_unknown(spark: SparkSession) -> None:
    """Accepted on the day before `at` is settled; on its day to 29 days later is true; day 30 is too late."""
    noon = datetime(2016, 3, 1, 12, tzinfo=UTC)
    questions = spark.createDataFrame([("a", n, noon) for n in range(1, 6)], "user_id STRING, post_id BIGINT, created_at TIMESTAMP")
    days = [(1, date(2016, 3, 2)), (2, date(2016, 3, 3)), (2, date(2016, 5, 1)), (3, date(2016, 4, 1)), (4, date(2016, 4, 2))]
    at = datetime(2016, 3, 3, 6, tzinfo=UTC)
    acceptances = spark.createDataFrame(days, "post_id BIGINT, day DATE")
    found = labels.accepted_within(questions, acceptances, at + 30 * DAY).withColumn("at", F.unix_micros("at")).orderBy("post_id").collect()
    assert [(row.post_id, row.label) for row in found] == [(2, True), (3, True), (4, False), (5, False)]
    assert {row["at"] for row in found} == {int(at.timestamp()) * 1_000_000}
    assert labels.accepted_within(questions, acceptances, at + 30 * DAY - MOMENT).isEmpty()


def test_a_month_needs_its_30_days_in_the_dump() -> None:
    """From the first day asked for, over the turn of a year."""
    last = datetime(2016, 3, 2, 6, tzinfo=UTC)
    assert [at.date() for at in labels.month_starts(date(2015, 11, 2), last)] == [date(2015, 12, 1), date(2016, 1, 1), date(2016, 2, 1)]
    assert [at.date() for at in labels.month_starts(date(2015, 11, 2), last - MOMENT)][-1] == date(2016, 1, 1)


def xml(root: str, rows: list[str]) -> str:
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?>\n<{root}>\n' + "\n".join(f"<row {row} />" for row in rows) + f"\n</{root}>\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """dump/ and raw/ of a site with one user, whose question 1 has answer 2, accepted after a week."""
    (tmp_path / "dump").mkdir()
    posts = ['Id="1" PostTypeId="1" OwnerUserId="7"', 'Id="2" PostTypeId="2" ParentId="1" OwnerUserId="8"', 'Id="3" PostTypeId="4"']
    votes = [f'Id="{n}" PostId="2" VoteTypeId="{kind}" CreationDate="2016-02-{day}T00:00:00.000"' for n, (kind, day) in enumerate([(2, 11), (1, 17)])]
    (tmp_path / "dump" / "Posts.xml").write_text(xml("posts", posts), encoding="utf-8")
    (tmp_path / "dump" / "Votes.xml").write_text(xml("votes", votes), encoding="utf-8")
    moments = {"questions": datetime(2016, 2, 10, tzinfo=UTC), "comments": datetime(2016, 3, 5, tzinfo=UTC), "badges": datetime(2016, 4, 30, tzinfo=UTC)}
    for source in (*labels.ACTS, "badges"):
        key = {"user_id": "7", "created_at": moments.get(source)} | dict.fromkeys(COLUMNS[source])
        rows = [key | ({"post_id": 1} if source == "questions" else {})] if source in moments else []
        folder = tmp_path / "raw" / source / "delivered_ds=2016-02-10"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMAS[source]), folder / "part-00000.parquet")
    return tmp_path


def test_a_site_s_labels_are_written_once(spark: SparkSession, site: Path) -> None:
    """March is asked: active, no badge; the question of February was accepted. April's 30 days aren't in the dump."""
    counts = labels.run(spark, site / "dump", site / "raw", site / "labels", date(2016, 2, 10))
    assert counts == {"active": (1, 1), "badge": (1, 0), "accepted": (1, 1)}
    (row,) = pq.read_table(site / "labels" / "accepted.parquet").to_pylist()
    assert row == {"user_id": "7", "post_id": 1, "at": datetime(2016, 2, 12, 6, tzinfo=UTC), "label": True}
    with pytest.raises(BadInput, match=r"labels: exists already, expected a new folder"):
        labels.run(spark, site / "dump", site / "raw", site / "labels", date(2016, 2, 10))


def test_what_is_missing_is_named(spark: SparkSession, site: Path) -> None:
    """A dump without votes, and a first day that no month follows."""
    with pytest.raises(BadInput, match=r"the dump ends at 2016-04-30 .*, expected a month's start at least 30 days before"):
        labels.run(spark, site / "dump", site / "raw", site / "labels", date(2016, 4, 2))
    (site / "dump" / "Votes.xml").unlink()
    with pytest.raises(BadInput, match=r"found no .*Votes.xml, expected a dump's files"):
        labels.run(spark, site / "dump", site / "raw", site / "labels", date(2016, 2, 10))
