"""Joins labels to the tokens that were known at each label's time. Pure: DataFrames in, a DataFrame out.

A token row is *known* to a label when it was available by the label's time and its day lies at least `lag` before the
label's day. Both are lower bounds on the label's time, so each row has one moment from which it is known, and the join
is "everything known so far" per key: a running maximum for the latest tokens, a filtered history for sequences. Neither
needs a range join, a row id, or keys made into text. Whatever the session's time zone, days are the catalog's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.errors import BadInput
from jobs.raw_input import named_columns

ONE_DAY = timedelta(days=1)
DAY_MICROS = 86_400_000_000
CODES = "_codes"
ADDED = ("token_ds", "token_available_at", "tokenizer_version")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    keys: tuple[str, ...]
    at: str
    lag_days: int
    time_zone: str
    tokenizer_version: str
    codes: tuple[str, ...]  # code columns, in the catalog's order


def join_tokens(
    labels: DataFrame,
    tokens: DataFrame,
    superseded: DataFrame,
    *,
    tokenizer_version: str,
    at: str,
    time_zone: str,
    keys: Sequence[str] = ("user_id",),
    lag: timedelta = ONE_DAY,
    sequence_days: int | None = None,
) -> DataFrame:
    """Every label row once with all its columns, then what was known of its key: NULL where nothing was.

    Adds token_ds, token_available_at, tokenizer_version and, without `sequence_days`, the code columns of the latest
    known day; with it, `sequence`, the codes of the last `sequence_days` days before the label's day less `lag`, an
    array of struct(ds, source, codes) by day, then in the tokens' column order.

    `at` is a TIMESTAMP; a DATE means the start of that day, a TIMESTAMP_NTZ the wall clock, both in `time_zone`. Of
    several known rows of a day the one available last counts, on a tie the one in `tokens`. A row that a repair withdrew
    without a successor stays known. `superseded` must hold only rows whose repair was published. The result has no
    particular order.
    """
    if sequence_days is not None and sequence_days < 1:
        raise BadInput(f"sequence_days {sequence_days}: expected at least 1")
    rule = _rule(labels, tokens, tuple(keys), at, lag, time_zone, tokenizer_version)
    _check_keys(labels, tokens, rule)
    _check_names(labels, {*ADDED, *(rule.codes if sequence_days is None else ("sequence",))})
    rows = _known_rows(tokens, superseded, rule)
    if sequence_days is None:
        return _with_latest(labels, rows, rule)
    return _with_sequence(labels, rows, rule, sequence_days)


def _known_rows(tokens: DataFrame, superseded: DataFrame, rule: _Rule) -> DataFrame:
    """key_0.., known_from, row: a struct whose order is ds, then available_at, then current before superseded."""
    current = _token_rows(tokens, rule, F.lit(True), F.lit(""))
    replaced = _token_rows(superseded, rule, F.lit(False), F.col("superseded_by_run"))
    return current.unionByName(replaced)


def _token_rows(tokens: DataFrame, rule: _Rule, is_current: Column, by_run: Column) -> DataFrame:
    present = tokens.where(F.col("tokenizer_version") == F.lit(rule.tokenizer_version)).dropna(subset=list(rule.keys))
    first_day = start_of_day(F.date_add("ds", rule.lag_days), rule.time_zone)
    return present.select(
        *(F.col(quoted(key)).alias(f"key_{i}") for i, key in enumerate(rule.keys)),
        F.greatest("available_at", first_day).alias("known_from"),
        F.struct(F.col("ds"), F.col("available_at"), is_current.alias("is_current"), by_run.alias("by_run"), *rule.codes).alias("row"),
    )


def _label_rows(labels: DataFrame, rule: _Rule) -> DataFrame:
    """key_0.., moment, day, label: the label row as a struct. A moment never reaches past the start of the next day:
    where a clock was once set back over midnight (St John's until 2011) the day before comes a second time."""
    moment = label_moment(labels, rule.at, rule.time_zone)
    day = day_of(moment, rule.time_zone)
    next_day = start_of_day(F.date_add(day, 1), rule.time_zone)
    return labels.select(
        *(F.col(quoted(key)).alias(f"key_{i}") for i, key in enumerate(rule.keys)),
        F.least(moment, next_day - F.expr("INTERVAL '0.000001' SECOND")).alias("moment"),
        day.alias("day"),
        F.struct(*(F.col(quoted(name)) for name in labels.columns)).alias("label"),
    )


def _with_latest(labels: DataFrame, rows: DataFrame, rule: _Rule) -> DataFrame:
    """Labels and token rows in one stream per key by time, token rows first: the greatest row so far is the answer."""
    key_columns = [f"key_{i}" for i in range(len(rule.keys))]
    marks = _label_rows(labels, rule).drop("day").withColumn("is_label", F.lit(True))
    events = rows.withColumnRenamed("known_from", "moment").withColumn("is_label", F.lit(False))
    by_time = Window.partitionBy(*key_columns).orderBy("moment", "is_label")
    so_far = by_time.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    stream = events.unionByName(marks, allowMissingColumns=True).withColumn("latest", F.max("row").over(so_far))
    row = F.col("latest")
    return stream.where("is_label").select(
        *_label_columns(labels),
        row["ds"].alias("token_ds"),
        row["available_at"].alias("token_available_at"),
        F.when(row.isNotNull(), F.lit(rule.tokenizer_version)).alias("tokenizer_version"),
        *(row[name].alias(name) for name in rule.codes),
    )


def _with_sequence(labels: DataFrame, rows: DataFrame, rule: _Rule, sequence_days: int) -> DataFrame:
    """Each key's whole history in one sorted array, joined to its labels by equality, then filtered per label."""
    key_columns = [f"key_{i}" for i in range(len(rule.keys))]
    entry = F.struct("row", "known_from", _slices(rule).alias("slices"))
    history = rows.groupBy(*key_columns).agg(F.array_sort(F.collect_list(entry)).alias("history"))
    oldest = F.date_sub("day", rule.lag_days + sequence_days)
    known = F.filter("history", lambda e: (e["known_from"] <= F.col("moment")) & (e["row"]["ds"] > oldest))
    newest = F.filter("known", lambda e, i: ~F.get("known", i + 1)["row"]["ds"].eqNullSafe(e["row"]["ds"]))
    joined = _label_rows(labels, rule).join(history, on=key_columns, how="left")
    found = joined.withColumn("known", known).withColumn("newest", F.when(F.size("known") > 0, newest))
    return found.select(
        *_label_columns(labels),
        F.array_max(F.transform("newest", lambda e: e["row"]["ds"])).alias("token_ds"),
        F.array_max(F.transform("newest", lambda e: e["row"]["available_at"])).alias("token_available_at"),
        F.when(F.col("newest").isNotNull(), F.lit(rule.tokenizer_version)).alias("tokenizer_version"),
        F.flatten(F.transform("newest", lambda e: e["slices"])).alias("sequence"),
    )


def _slices(rule: _Rule) -> Column:
    per_source = (F.struct(F.col("row.ds"), F.lit(name.removesuffix(CODES)).alias("source"), F.col(f"row.{name}").alias("codes")) for name in rule.codes)
    return F.filter(F.array(*per_source), lambda s: s["codes"].isNotNull())


def _label_columns(labels: DataFrame) -> list[Column]:
    return [F.col("label").getField(name).alias(name) for name in labels.columns]


def label_moment(labels: DataFrame, at: str, time_zone: str) -> Column:
    """The label's time as an instant. Raises `BadInput` when `at` is no time."""
    column, type = F.col(quoted(at)), labels.schema[at].dataType
    if isinstance(type, T.DateType):
        return start_of_day(column, time_zone)
    if isinstance(type, T.TimestampNTZType):
        as_if_utc = F.to_timestamp(F.concat(column.cast("string"), F.lit("Z")))
        return F.to_utc_timestamp(as_if_utc, time_zone)
    if isinstance(type, T.TimestampType):
        return column
    raise BadInput(f"labels, column {at}: found type {type.simpleString()}, expected TIMESTAMP, TIMESTAMP_NTZ or DATE; cast it first")


def day_of(moment: Column, time_zone: str) -> Column:
    """The day of an instant in `time_zone`, by arithmetic that does not look at the session's zone."""
    micros = F.unix_micros(F.from_utc_timestamp(moment, time_zone))
    return F.date_from_unix_date(((micros - F.pmod(micros, F.lit(DAY_MICROS))) / DAY_MICROS).cast("int"))


def start_of_day(day: Column, time_zone: str) -> Column:
    """The first instant of a day in `time_zone`: 01:00 where clocks skip midnight. Inverse of `day_of`."""
    return F.to_utc_timestamp(F.timestamp_micros(F.unix_date(day).cast("bigint") * DAY_MICROS), time_zone)


def _rule(labels: DataFrame, tokens: DataFrame, keys: tuple[str, ...], at: str, lag: timedelta, time_zone: str, version: str) -> _Rule:
    if lag < ONE_DAY or lag % ONE_DAY:
        raise BadInput(f"lag {lag}: expected whole days, at least 1d: a label must not see the tokens of its own day")
    if not keys:
        raise BadInput("keys: found none, expected at least one column")
    for name in (*keys, at):
        if labels.columns.count(name) != 1:
            others = named_columns(labels.columns, (*keys, at))
            raise BadInput(f"labels: column {name} found {labels.columns.count(name)} times, expected once; found {others}")
    codes = tuple(name for name in tokens.columns if name.endswith(CODES))
    return _Rule(keys=keys, at=at, lag_days=lag.days, time_zone=time_zone, tokenizer_version=version, codes=codes)


def _check_keys(labels: DataFrame, tokens: DataFrame, rule: _Rule) -> None:
    for key in rule.keys:
        if key not in tokens.columns:
            raise BadInput(f"keys: the tokens have no column {key}; rename the labels' column to one of {', '.join(tokens.columns)}")
        found, expected = labels.schema[key].dataType, tokens.schema[key].dataType
        if found != expected:
            raise BadInput(f"labels, column {key}: found type {found.simpleString()}, expected {expected.simpleString()} as in the tokens; cast it first")


def _check_names(labels: DataFrame, added: set[str]) -> None:
    names = [name.lower() for name in labels.columns]
    taken = sorted(added & set(names)) + sorted({name for name in names if names.count(name) > 1})
    if taken:
        raise BadInput(f"labels: column {', '.join(taken)} would occur twice in the result, expected another name; rename it first")


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
