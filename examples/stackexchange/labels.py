"""Labels of a Stack Exchange site that look 30 days ahead, for `u2qt evaluate` and `u2qt join`.

    python examples/stackexchange/labels.py DUMP RAW --first 2015-08-01 --out LABELS

Reads RAW, which `u2qt import stackexchange DUMP` wrote, and DUMP/{Posts,Votes}.xml for which answers were accepted when;
writes LABELS/{active,badge,accepted}.parquet. Key: user_id, at; accepted: post_id. Refuses a LABELS that exists.

- active: at the start of each month, every user of the last 90 days; true for a question, answer, comment or edit in
  the next 30.
- badge: the same users; true for a badge in the next 30 days.
- accepted: two days after a question was asked, where no answer was accepted yet; true if one is on the next 30.

`at` is 06:00 UTC. Who is asked is decided by rows before `at` alone, the label by rows from `at` on, and a moment whose
30 days the dump doesn't hold to the end gets no label. An acceptance carries no time of day; the dump keeps one only
while it stands, so one that was taken back later is not seen.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.errors import BadInput, U2qtError
from jobs.session import build_session
from jobs.stackexchange_dump import XmlRows

WINDOW, HORIZON, SETTLED = 90, 30, 2  # days: a user is still around; labels look ahead; a question is left alone
HOUR = 6  # yesterday's tokens are there by then
ACTS = ("questions", "answers", "comments", "edits")
ANSWER, ACCEPTED = 2, 1  # PostTypeId, VoteTypeId
ROWS_AT_ONCE = 100_000


def coming_month(moments: DataFrame, rows: DataFrame, outcomes: DataFrame) -> DataFrame:
    """`moments` (at), `rows` and `outcomes` (user_id, created_at) to user_id, at, label: one row per moment and user seen
    in the WINDOW before it, true where one of `outcomes` follows within HORIZON."""
    before = (F.col("created_at") < F.col("at")) & (F.col("created_at") >= F.col("at") - F.expr(f"INTERVAL {WINDOW} DAYS"))
    ahead = (F.col("created_at") >= F.col("at")) & (F.col("created_at") < F.col("at") + F.expr(f"INTERVAL {HORIZON} DAYS"))
    seen = rows.join(F.broadcast(moments), on=before, how="inner").select("user_id", "at").distinct()
    happened = outcomes.join(F.broadcast(moments), on=ahead, how="inner").select("user_id", "at", F.lit(True).alias("label")).distinct()
    return seen.join(happened, on=["user_id", "at"], how="left").select("user_id", "at", F.coalesce("label", F.lit(False)).alias("label"))


def accepted_within(questions: DataFrame, acceptances: DataFrame, last: datetime) -> DataFrame:
    """`questions` (user_id, post_id, created_at), `acceptances` (post_id, day) to user_id, post_id, at, label; no row for
    what was accepted before its `at`, or where HORIZON ends after `last`."""
    first = acceptances.groupBy("post_id").agg(F.min("day").alias("day"))
    at_day = F.date_add(F.to_date("created_at"), SETTLED)
    dated = questions.withColumn("at_day", at_day).join(first, on="post_id", how="left")
    open_ = dated.where(F.col("day").isNull() | (F.col("day") >= F.col("at_day")))
    at = F.col("at_day").cast("timestamp") + F.expr(f"INTERVAL {HOUR} HOURS")
    label = F.coalesce(F.col("day") < F.date_add("at_day", HORIZON), F.lit(False))
    known = open_.select("user_id", "post_id", at.alias("at"), label.alias("label"))
    return known.where(F.col("at") + F.expr(f"INTERVAL {HORIZON} DAYS") <= F.lit(last))


def month_starts(first: date, last: datetime) -> list[datetime]:
    """06:00 UTC of each first of a month from `first` on whose HORIZON ends by `last`."""
    months = ((first.year * 12 + first.month - 1 + n) for n in range((last.year - first.year + 1) * 12 + 1))
    starts = (datetime.combine(date(m // 12, m % 12 + 1, 1), time(HOUR), UTC) for m in months)
    return [at for at in starts if at.date() >= first and at + timedelta(days=HORIZON) <= last]


def accepted_answers(dump: Path, folder: Path, spark: SparkSession) -> DataFrame:
    """(post_id, day): on which day an answer to a question was accepted."""
    posts = ((row.key("Id"), row.number("ParentId")) for row in XmlRows(dump / "Posts.xml") if row.key("PostTypeId") == ANSWER)
    votes = XmlRows(dump / "Votes.xml", ("PostId", "VoteTypeId", "CreationDate"))
    given = ((row.key("PostId"), row.moment("CreationDate").date()) for row in votes if row.key("VoteTypeId") == ACCEPTED)
    _written(posts, pa.schema({"answer_id": pa.int64(), "post_id": pa.int64()}), folder / "answers.parquet")
    _written(given, pa.schema({"answer_id": pa.int64(), "day": pa.date32()}), folder / "votes.parquet")
    answers, days = (spark.read.parquet(str(folder / f"{name}.parquet")) for name in ("answers", "votes"))
    return days.join(answers, on="answer_id", how="inner").select("post_id", "day")


def run(spark: SparkSession, dump: Path, raw: Path, out: Path, first: date) -> dict[str, tuple[int, int]]:
    """Labels and positive ones per table. Raises `BadInput` for folders that aren't what they should be."""
    _check(dump, raw, out)
    sources = {name: spark.read.parquet(str(raw / name)) for name in (*ACTS, "badges")}
    acts = _all([sources[name].select("user_id", "created_at") for name in ACTS])
    rows = acts.unionByName(sources["badges"].select("user_id", "created_at"))
    last = datetime.fromtimestamp((rows.agg(F.unix_micros(F.max("created_at"))).first() or (0,))[0] / 1_000_000, UTC)
    starts = month_starts(first, last)
    if not starts:
        raise BadInput(f"--first {first}: the dump ends at {last}, expected a month's start at least {HORIZON} days before; give an earlier day")
    moments = spark.createDataFrame([(at,) for at in starts], "at TIMESTAMP")
    with TemporaryDirectory() as work:
        asked = sources["questions"].where(F.col("created_at") >= F.lit(datetime.combine(first, time(0), UTC)))
        tables = {
            "active": coming_month(moments, rows, acts),
            "badge": coming_month(moments, rows, sources["badges"]),
            "accepted": accepted_within(asked, accepted_answers(dump, Path(work), spark), last),
        }
        for name, table in tables.items():
            table.coalesce(1).write.parquet(str(out / f"{name}.parquet"))
    return {name: _counted(spark.read.parquet(str(out / f"{name}.parquet"))) for name in tables}


def _check(dump: Path, raw: Path, out: Path) -> None:
    needed = (*(dump / f"{name}.xml" for name in ("Posts", "Votes")), *(raw / name for name in (*ACTS, "badges")))
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise BadInput(f"found no {', '.join(missing)}, expected a dump's files and what `u2qt import stackexchange` wrote of it; give both folders")
    if out.exists():
        raise BadInput(f"--out {out}: exists already, expected a new folder (nothing is overwritten); remove it or give another name")


def _written(rows: Iterable[tuple[object, ...]], schema: pa.Schema, file: Path) -> None:
    with pq.ParquetWriter(file, schema) as writer:
        for part in _parts(iter(rows)):
            columns = [pa.array(column, field.type) for column, field in zip(zip(*part, strict=True), schema, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _parts(rows: Iterator[tuple[object, ...]]) -> Iterator[list[tuple[object, ...]]]:
    while part := list(islice(rows, ROWS_AT_ONCE)):
        yield part


def _all(frames: Sequence[DataFrame]) -> DataFrame:
    whole, *rest = frames
    for frame in rest:
        whole = whole.unionByName(frame)
    return whole


def _counted(labels: DataFrame) -> tuple[int, int]:
    found = labels.agg(F.count(F.lit(1)), F.count_if("label")).first()
    return (int(found[0]), int(found[1])) if found else (0, 0)


def main(
    dump: Annotated[Path, typer.Argument(help="Folder with the dump's XML files.")],
    raw: Annotated[Path, typer.Argument(help="What `u2qt import stackexchange` wrote of it.")],
    first: Annotated[datetime, typer.Option("--first", formats=["%Y-%m-%d"], help="Earliest label; after the days a tokenizer was trained on.")],
    out: Annotated[Path, typer.Option("--out", help="New folder.")],
) -> None:
    """Writes the three label tables."""
    spark = build_session()
    try:
        for name, (labels, positive) in run(spark, dump, raw, out, first.date()).items():
            typer.echo(f"{out / name}.parquet: {labels:,} labels, {positive:,} positive")
    except U2qtError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    finally:
        spark.stop()


if __name__ == "__main__":
    typer.run(main)
