"""Simulated events in the form their owners deliver them: one function per source, raw column names, local clock text."""

from collections.abc import Callable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.simulated_behaviour import EVENT, Draws

WORDS = ("cheap", "near me", "best", "how to", "today", "delivery", "for two", "discount", "review", "open now")
TOPICS = {
    "food": "noodles",
    "travel": "train ticket",
    "clothing": "winter coat",
    "digital": "phone case",
    "health": "blood test",
    "finance": "fund",
    "games": "card game",
    "home": "sofa",
}
KEPT = ("user", "slot", "delivered_ds")  # for the dirt and the truth table; dropped before writing


def bill(events: DataFrame, draws: Draws) -> DataFrame:
    amount = F.exp(7.5 + 1.2 * draws.normal("bill/amount", *EVENT) + 0.25 * F.col("persona")).cast("bigint")
    habit = draws.below(4, "bill/channel_habit", "user")
    channels = F.array(*map(F.lit, ("balance", "debit_card", "credit_card", "credit_line")))
    chosen = F.when(draws.uniform("bill/keep_channel", *EVENT) < 0.8, habit).otherwise(draws.below(4, "bill/channel", *EVENT))
    return events.select(
        *KEPT,
        draws.ident("b", *EVENT).alias("bill_id"),
        F.col("user_id").alias("uid"),
        F.col("event_at").alias("paid_at"),
        "delivered_at",
        _item("product").alias("product"),
        "category",
        F.least(amount, F.lit(100_000_000)).alias("amount_minor"),
        draws.one_of(("CNY", "HKD", "USD"), "bill/currency", *EVENT, skew=12).alias("currency"),
        F.element_at(channels, chosen + 1).alias("channel"),
        draws.one_of(("merchant", "person", "utility"), "bill/party", *EVENT, skew=2).alias("counterparty_type"),
        draws.one_of(("paid", "refunded", "failed"), "bill/status", *EVENT, skew=8).alias("status"),
    )


def mini_program(events: DataFrame, draws: Draws) -> DataFrame:
    return events.select(
        *KEPT,
        draws.ident("v", *EVENT).alias("visit_id"),
        "user_id",
        F.col("event_at").alias("visited_at"),
        "delivered_at",
        _item("program").alias("program"),
        "category",
        _habitual(draws, ("open", "browse", "order", "share"), "mini_program/action").alias("action"),
        _seconds(draws, "mini_program/stay", 3.5).alias("stay_seconds"),
    )


def spm(events: DataFrame, draws: Draws) -> DataFrame:
    return events.select(
        *KEPT,
        draws.ident("l", *EVENT).alias("log_id"),
        "user_id",
        F.col("event_at").alias("logged_at"),
        "delivered_at",
        F.concat(F.lit("a_"), "category").alias("spm_a"),
        F.concat(F.lit("b"), F.col("item").cast("string")).alias("spm_b"),
        F.concat(F.lit("c"), draws.below(6, "spm/block", *EVENT).cast("string")).alias("spm_c"),
        F.concat(F.lit("d"), draws.below(12, "spm/position", *EVENT).cast("string")).alias("spm_d"),
        _habitual(draws, ("click", "expose"), "spm/action").alias("action"),
        F.when(draws.uniform("spm/known_stay", *EVENT) < 0.7, _seconds(draws, "spm/stay", 2.0)).alias("stay_seconds"),
    )


def app(events: DataFrame, draws: Draws) -> DataFrame:
    return events.select(
        *KEPT,
        "user_id",
        F.col("event_at").alias("started_at"),
        "delivered_at",
        _item("app").alias("app_name"),
        "category",
        _seconds(draws, "app/foreground", 5.0).alias("foreground_seconds"),
        (1 + F.floor(20 * F.pow(draws.uniform("app/launches", *EVENT), 3))).alias("launches"),
    )


def search(events: DataFrame, draws: Draws) -> DataFrame:
    topics = F.create_map(*(F.lit(part) for pair in TOPICS.items() for part in pair))
    query = F.concat_ws(" ", topics[F.col("category")], F.col("item").cast("string"), draws.one_of(WORDS, "search/word", *EVENT, skew=1.5))
    return events.select(
        *KEPT,
        draws.ident("s", *EVENT).alias("search_id"),
        "user_id",
        F.col("event_at").alias("searched_at"),
        "delivered_at",
        query.alias("query"),
        _habitual(draws, ("all", "shops", "programs", "help"), "search/tab").alias("tab"),
        (draws.uniform("search/clicked", *EVENT) < 0.6).alias("result_clicked"),
    )


def profile(users: DataFrame, days: DataFrame, draws: Draws) -> DataFrame:
    """Everyone on the first day, then each user once a week."""
    due = users.crossJoin(F.broadcast(days)).where((F.col("day") == 0) | (F.pmod(F.col("user") + F.col("day"), F.lit(7)) == 0))
    morning = F.date_format(F.date_add("ds", 1), "yyyy-MM-dd' 02:00:00'")
    return due.select(
        "user",
        F.lit(1).alias("slot"),
        F.col("ds").alias("delivered_ds"),
        "user_id",
        F.col("ds").cast("string").alias("valid_from"),
        morning.alias("delivered_at"),
        draws.one_of(("18-24", "25-34", "35-44", "45-54", "55+"), "profile/age", "user", skew=1.3).alias("age_band"),
        F.when(draws.uniform("profile/known_city", "user") < 0.9, draws.one_of(("1", "2", "3", "4"), "profile/city", "user")).alias("city_tier"),
        F.concat(F.lit("device-"), draws.below(30, "profile/device", "user").cast("string")).alias("device"),
        (draws.below(3000, "profile/tenure", "user") + F.col("day")).cast("bigint").alias("tenure_days"),
        F.round((F.col("persona") + draws.uniform("profile/balance", "user")) / 6, 3).alias("balance_band"),
        F.floor(F.exp(4 + draws.normal("profile/friends", "user"))).cast("bigint").alias("friends"),
    )


EVENT_SOURCES: dict[str, Callable[[DataFrame, Draws], DataFrame]] = {"bill": bill, "mini_program": mini_program, "spm": spm, "app": app, "search": search}


def _item(kind: str) -> Column:
    return F.concat_ws(" ", F.col("category"), F.lit(kind), F.col("item").cast("string"))


def _seconds(draws: Draws, name: str, log_mean: float) -> Column:
    """Lognormal, cut at a day, one decimal."""
    return F.round(F.least(F.exp(log_mean + 1.1 * draws.normal(name, *EVENT)), F.lit(86400.0)), 1)


def _habitual(draws: Draws, choices: tuple[str, ...], name: str) -> Column:
    """Two times in three the user's habit, which no other source shows."""
    kept = draws.uniform(f"{name}/keep", *EVENT) < 0.67
    return F.when(kept, draws.one_of(choices, f"{name}/habit", "user")).otherwise(draws.one_of(choices, name, *EVENT))
