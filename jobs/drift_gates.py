"""Gates that know yesterday: a day's tokens against the days published before it, under the same tokenizer version.

Reads nothing by itself: `audit_tokens` hands it frames. Spark aggregates, so that the driver sees a few numbers per source
and level. A day of a chunk is compared as if the days before it in the chunk were published but for those that are blocked, as day by day.

    users          users with tokens: 1 - smaller / larger, so that halving and doubling are both 0.5; against the last day before, or
                   the same weekday a week before where that is nearer
    clean_rows     the same of an event source's clean rows
    null_values    share of a source's clean rows without a value, per nullable column: difference from the trailing days together
    absent_slices  share of users without the source: difference from the trailing days together
    code_usage     PSI of a source's codes of one level against the trailing days together, above what sampling alone gives
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import Any

from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from schemas.drift import DriftRules, Gate
from schemas.keys import Days
from schemas.user_tokens import codes_column

PRIOR = 0.5  # added to every code's count, so that a code seen on one side only has a finite logarithm
WEEK = timedelta(days=7)
Sizes = Mapping[tuple[str, int], int]  # codebook size by source and level
History = Mapping[date, tuple[date, ...]]  # day to the days it is compared with, oldest first
Counts = Mapping[tuple[str, date], int]  # rows by source and day
Nulls = Mapping[tuple[str, str, date], tuple[int, int]]  # rows without a value, and rows, by source, column and day


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What one gate found of one day. `severity` is ok, warn, block, or few where there is too little to judge."""

    gate: Gate
    source: str | None
    level: int | None
    value: float
    found: float  # the day's count or share; for code_usage its slices
    usual: float  # the same of the days compared with
    severity: str
    column: str | None = None

    def __str__(self) -> str:
        where = "".join(f" {part}" for part in (self.source, self.column, self.level and f"level {self.level}") if part)
        return f"{self.gate}{where}: {self.value:.3f} ({self.found:g}, before {self.usual:g})"


def compared_days(published: Iterable[date], days: Days, trailing: int, blocked: Collection[date] = ()) -> dict[date, tuple[date, ...]]:
    """For each of `days` the last `trailing` days before it that are published or of the chunk, but for its `blocked` ones, which nobody published."""
    known = sorted({*published, *days} - {*blocked})
    return {ds: tuple([day for day in known if day < ds][-trailing:]) for ds in days}


def presence(tokens: DataFrame, sources: Sequence[str]) -> DataFrame:
    """Per day: users, and users with each source."""
    return tokens.groupBy("ds").agg(F.count(F.lit(1)).alias("users"), *(F.count(codes_column(source)).alias(source) for source in sources))


def code_usage(tokens: DataFrame, history: History, sizes: Sizes) -> DataFrame:
    """Per day of `history`, source and level: slices found and usual, PSI of their codes, and what sampling alone would give."""
    key = ["ds", "source", "level"]
    size = tokens.sparkSession.createDataFrame([(*place, k) for place, k in sizes.items()], "source string, level int, size int")
    totals = Window.partitionBy(*key)
    sums = [F.sum(name).over(totals).alias(f"all_{name}") for name in ("found", "usual")]
    counted = _sides(tokens, history, sorted({source for source, _ in sizes}))
    summed = counted.join(F.broadcast(size), on=["source", "level"], how="inner").select("*", *sums)
    seen = _psi_term(_share(F.col("found"), "all_found"), _share(F.col("usual"), "all_usual"))
    unseen = _psi_term(_share(F.lit(0), "all_found"), _share(F.lit(0), "all_usual"))
    parts = [F.sum(seen).alias("seen_psi"), F.first(unseen).alias("unseen_psi"), F.count("*").alias("seen")]
    grouped = summed.groupBy(*key, "size", F.col("all_found").alias("found"), F.col("all_usual").alias("usual")).agg(*parts)
    psi = F.col("seen_psi") + (F.col("size") - F.col("seen")) * F.col("unseen_psi")
    noise = (F.col("seen") - 1) * (1 / F.nullif("found", F.lit(0)) + 1 / F.nullif("usual", F.lit(0)))
    return grouped.select(*key, "found", "usual", psi.alias("psi"), noise.alias("noise"))


def _sides(tokens: DataFrame, history: History, sources: Sequence[str]) -> DataFrame:
    """Per day of `history`, source, level (from 1) and code: slices of the day, and of the days it is compared with. One scan."""
    places = [(ds, ds, False) for ds in history] + [(day, ds, True) for ds, days in history.items() for day in days]
    roles = tokens.sparkSession.createDataFrame(places, "read_ds date, ds date, before boolean")
    pairs = F.array(*(F.struct(F.lit(source).alias("source"), F.col(codes_column(source)).alias("codes")) for source in sources))
    slices = tokens.select(F.col("ds").alias("read_ds"), F.explode(pairs).alias("slice"))
    codes = slices.select("read_ds", "slice.source", F.posexplode("slice.codes").alias("position", "code"))
    level = (F.col("position") + 1).alias("level")
    counts = codes.groupBy("read_ds", "source", level, "code").agg(F.count("*").alias("n")).join(F.broadcast(roles), on="read_ds", how="inner")
    sides = {"found": ~F.col("before"), "usual": F.col("before")}
    return counts.groupBy("ds", "source", "level", "code").agg(*(F.sum(F.when(side, F.col("n")).otherwise(0)).alias(name) for name, side in sides.items()))


def _share(count: Column, total: str) -> Column:
    return (count + PRIOR) / (F.col(total) + PRIOR * F.col("size"))


def _psi_term(found: Column, usual: Column) -> Column:
    return (found - usual) * F.log(found / usual)


def change(found: float, usual: float) -> float:
    """0 for the same number, 0.5 for half or double, 1 for something against nothing."""
    larger = max(found, usual)
    return 1 - min(found, usual) / larger if larger else 0.0


def day_measures(
    ds: date, before: Sequence[date], present: Mapping[date, Row], clean: Counts, nulls: Nulls, usage: Sequence[Row], rules: DriftRules
) -> list[Measure]:
    """Every gate on one day. Nothing where there is no day before; then nothing is known of yesterday."""
    if not before:
        return []
    today, empty = present.get(ds), {"users": 0}
    now: Mapping[str, int] = today.asDict() if today else empty
    past = [present[day].asDict() for day in before if day in present]
    sources = [name for name in (past[0] if past else {}) if name not in ("ds", "users")]
    yesterdays = [day for day in before if day in (before[-1], ds - WEEK)]
    measures = [_volume("users", None, now["users"], [_users(present, day) for day in yesterdays], rules)]
    for source in sorted({source for source, _ in clean}):
        usual = [clean[source, day] for day in yesterdays if (source, day) in clean]
        if usual:
            measures.append(_volume("clean_rows", source, clean.get((source, ds), 0), usual, rules))
    measures += _null_measures(ds, before, nulls, rules)
    users = sum(row["users"] for row in past)
    for source in sources if now["users"] else []:
        found, usually = (1 - n / of for n, of in ((now[source], now["users"]), (sum(row[source] for row in past), users)))
        measures.append(_judged("absent_slices", source, None, abs(found - usually), (found, usually), min(now["users"], users), rules))
    for row in usage:
        enough = min(row.found, row.usual)
        value = max(0.0, row.psi - row.noise) if enough else 0.0
        measures.append(_judged("code_usage", row.source, row.level, value, (row.found, row.usual), enough, rules))
    return measures


def _null_measures(ds: date, before: Sequence[date], nulls: Nulls, rules: DriftRules) -> list[Measure]:
    """Of every column that is known on the day and before it."""
    measures = []
    for source, column in sorted({(source, column) for source, column, _ in nulls}):
        absent, rows = nulls.get((source, column, ds), (0, 0))
        past = [nulls[source, column, day] for day in before if (source, column, day) in nulls]
        absent_before, rows_before = (sum(part) for part in zip(*past, strict=True)) if past else (0, 0)
        if rows and rows_before:
            numbers = (absent / rows, absent_before / rows_before)
            judged = _judged("null_values", source, None, abs(numbers[0] - numbers[1]), numbers, min(rows, rows_before), rules)
            measures.append(replace(judged, column=column))
    return measures


def _users(present: Mapping[date, Row], day: date) -> int:
    return int(present[day].users) if day in present else 0


def _volume(gate: Gate, source: str | None, found: int, usual: Sequence[int], rules: DriftRules) -> Measure:
    nearest = min(usual, key=lambda n: change(found, n))
    return _judged(gate, source, None, change(found, nearest), (found, nearest), max(found, nearest), rules)


def _judged(gate: Gate, source: str | None, level: int | None, value: float, numbers: tuple[float, float], rows: int, rules: DriftRules) -> Measure:
    severity = rules.of(gate, source).severity(value) if rows >= rules.least_rows else "few"
    found, usual = numbers
    return Measure(gate=gate, source=source, level=level, value=value, found=found, usual=usual, severity=severity)


@dataclass(frozen=True, kw_only=True, slots=True)
class DayDrift:
    """What the gates say of one day."""

    ds: date
    compared_with: tuple[date, ...]
    trailing_days: int
    rules_hash: str
    measures: tuple[Measure, ...]

    @property
    def blocking(self) -> list[str]:
        return [str(measure) for measure in self.measures if measure.severity == "block"]

    @property
    def note(self) -> str:
        """What the comparison could not know."""
        known, few = len(self.compared_with), sum(measure.severity == "few" for measure in self.measures)
        if not known:
            return "no day is published before it: nothing to compare with"
        short = [f"compared with {known} of {self.trailing_days} days"] if known < self.trailing_days else []
        return "; ".join(short + ([f"{few} of {len(self.measures)} figures have too few rows to judge"] if few else []))

    def to_json(self) -> str:
        """As table audits keeps it: the days compared with, and every figure."""
        facts: dict[str, Any] = {"compared_with": [str(day) for day in self.compared_with], "note": self.note, "rules": self.rules_hash}
        return json.dumps(facts | {"measures": [asdict(measure) for measure in self.measures]})


def measured(tokens: DataFrame, history: History, sizes: Sizes, clean: Counts, nulls: Nulls, rules: DriftRules) -> list[DayDrift]:
    """Every day of `history`, from the tokens of those days and of the days compared with."""
    sources = list(dict.fromkeys(source for source, _ in sizes))
    present = {row.ds: row for row in presence(tokens, sources).collect()}
    compared = {ds: days for ds, days in history.items() if days}
    usage = code_usage(tokens, compared, sizes).orderBy("ds", "source", "level").collect() if compared else []
    rules_hash = hashlib.sha256(rules.model_dump_json().encode()).hexdigest()[:16]
    return [
        DayDrift(
            ds=ds,
            compared_with=days,
            trailing_days=rules.trailing_days,
            rules_hash=rules_hash,
            measures=tuple(day_measures(ds, days, present, clean, nulls, [row for row in usage if row.ds == ds], rules)),
        )
        for ds, days in history.items()
    ]
