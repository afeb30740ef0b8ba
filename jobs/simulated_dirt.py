"""Dirt on request: a share of the simulated rows is spoilt in a known way, and a truth table says what became of which.

Pure transforms. A kind that a source has no column for (a search has no number) falls to `unknown_category`.
"""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.simulated_behaviour import Draws

MEGABYTE = 1_048_576
MEGABYTE_SHARE = 0.005  # of the dirty rows; more would be most of the bytes
RIGHT_TO_LEFT = " \u0645\u0631\u062d\u0628\u0627 \U0001f389"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """Where a source can be spoilt: raw column names, and the declared names that reasons carry."""

    user: str
    time: str
    category: tuple[str, str]  # raw, declared
    text: tuple[str, str]
    number: tuple[str, str] | None


SPOTS = {
    "bill": Spot(user="uid", time="paid_at", category=("category", "category"), text=("product", "product"), number=("amount_minor", "amount")),
    "mini_program": Spot(user="user_id", time="visited_at", category=("category", "category"), text=("program", "program"), number=("stay_seconds", "stay")),
    "spm": Spot(user="user_id", time="logged_at", category=("action", "action"), text=("spm_b", "page"), number=("stay_seconds", "stay")),
    "app": Spot(user="user_id", time="started_at", category=("category", "category"), text=("app_name", "app"), number=("launches", "launches")),
    "search": Spot(user="user_id", time="searched_at", category=("tab", "tab"), text=("query", "query"), number=None),
    "profile": Spot(user="user_id", time="valid_from", category=("age_band", "age_band"), text=("device", "device"), number=("tenure_days", "tenure_days")),
}
KINDS = (
    "exact_duplicate",
    "conflicting_duplicate",
    "null_key",
    "unparsable_time",
    "out_of_range",
    "unknown_category",
    "control_characters",
    "right_to_left_and_emoji",
    "future_dated",
)


def marked(rows: DataFrame, source: str, share: float, draws: Draws) -> DataFrame:
    """Adds `dirt`: the kind, NULL for a clean row. Exactly the rows that `draws` picks, whatever else happens."""
    keys = (F.lit(source), F.col("user"), F.col("delivered_ds"), F.col(_moment_name(source)), F.col("slot"))
    kind = draws.one_of(KINDS, "dirt/kind", *keys)
    if SPOTS[source].number is None:
        kind = F.when(kind == "out_of_range", "unknown_category").otherwise(kind)
    kind = F.when(draws.uniform("dirt/megabyte", *keys) < MEGABYTE_SHARE, "megabyte_text").otherwise(kind)
    return rows.withColumn("dirt", F.when(draws.uniform("dirt", *keys) < share, kind))


def spoilt(marked: DataFrame, source: str) -> DataFrame:
    """The rows as delivered: doubled where `dirt` says so, spoilt otherwise."""
    spot = SPOTS[source]
    doubled = F.col("dirt").isin("exact_duplicate", "conflicting_duplicate")
    rows = marked.withColumn("copy", F.explode(F.when(doubled, F.array(F.lit(0), F.lit(1))).otherwise(F.array(F.lit(0)))))
    changes = {
        spot.user: _spoil(spot.user, {"null_key": F.lit(None).cast("string")}),
        spot.time: _spoil(spot.time, {"unparsable_time": F.lit("the day before yesterday"), "future_dated": _month_later(spot.time)}),
        spot.category[0]: _spoil(spot.category[0], {"unknown_category": F.lit("no_such_category")}),
        spot.text[0]: _text(spot),
    }
    if spot.number is not None:
        name = spot.number[0]
        second = F.when((F.col("dirt") == "conflicting_duplicate") & (F.col("copy") == 1), F.coalesce(F.col(name), F.lit(0)) + 1)
        value = F.when(F.col("dirt") == "out_of_range", F.lit(-7)).otherwise(F.coalesce(second, F.col(name)))
        changes[name] = value.cast(marked.schema[name].dataType)
    return rows.select(*(changes[c].alias(c) if c in changes else F.col(c) for c in marked.columns))


def truth(marked: DataFrame, source: str) -> DataFrame:
    """What was planted: source, delivered_ds, user, slot, kind, outcome (of the spoilt row), reason (NULL if it stays clean)."""
    spot = SPOTS[source]
    reasons = {
        "null_key": "null:user_id",
        "unparsable_time": "time_unparsable:event_time",
        "unknown_category": f"category:{spot.category[1]}",
        "control_characters": f"control_chars:{spot.text[1]}",
        "megabyte_text": f"too_long:{spot.text[1]}",
        "future_dated": "time_in_future:event_time",
        **({"out_of_range": f"range:{spot.number[1]}"} if spot.number else {}),
    }
    reason = F.create_map(*(F.lit(part) for pair in reasons.items() for part in pair))[F.col("dirt")]
    outcome = F.when(reason.isNotNull(), "quarantined").when(F.col("dirt") == "exact_duplicate", "duplicate").otherwise("clean")
    planted = marked.where(F.col("dirt").isNotNull())
    return planted.select(
        F.lit(source).alias("source"), "delivered_ds", "user", "slot", F.col("dirt").alias("kind"), outcome.alias("outcome"), reason.alias("reason")
    )


def _moment_name(source: str) -> str:
    return SPOTS[source].time


def _spoil(name: str, values: dict[str, Column]) -> Column:
    column = F.col(name)
    for kind, value in values.items():
        column = F.when(F.col("dirt") == kind, value).otherwise(column)
    return column


def _text(spot: Spot) -> Column:
    name = spot.text[0]
    values = {
        "control_characters": F.concat(F.substring(name, 1, 2), F.lit("\x07"), F.substring(name, 3, MEGABYTE)),
        "right_to_left_and_emoji": F.concat(F.col(name), F.lit(RIGHT_TO_LEFT)),
        "megabyte_text": F.repeat(F.lit("x"), MEGABYTE),
    }
    column = _spoil(name, values)
    if spot.number is None:
        second = (F.col("dirt") == "conflicting_duplicate") & (F.col("copy") == 1)
        column = F.when(second, F.concat(F.col(name), F.lit(" again"))).otherwise(column)
    return column


def _month_later(name: str) -> Column:
    """The same clock 30 days on, in the same form (a date, or a date and a time)."""
    return F.concat(F.date_add(F.substring(F.col(name), 1, 10).cast("date"), 30).cast("string"), F.substring(F.col(name), 11, 9))
