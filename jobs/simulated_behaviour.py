"""Simulated users and what they do: pure transforms over Spark built-ins, every draw a hash of (seed, name, keys).

So a row depends on the seed and its own key alone, never on partitions, cores or row order. A hidden persona and a
drifting interest show through every source; a habit of each source shows in that source only.
"""

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

CATEGORIES = ("food", "travel", "clothing", "digital", "health", "finance", "games", "home")
PERSONAS = 6
INTEREST_DAYS = 9  # a user's interest holds for this long
MAX_EVENTS = 10  # per user, day and source
LATE_SHARE = 0.02
PRESENT = {"bill": 0.55, "mini_program": 0.6, "spm": 0.8, "app": 0.9, "search": 0.5}  # chance that an active user uses a source
ITEMS = {"bill": 400, "mini_program": 150, "spm": 60, "app": 40, "search": 40}  # distinct items per category


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Uniform and normal numbers as columns; the same name and keys give the same number."""

    seed: int

    def uniform(self, name: str, *keys: Column | str) -> Column:
        """In (0, 1)."""
        bits = F.pmod(F.xxhash64(F.lit(self.seed), F.lit(name), *(F.col(k) if isinstance(k, str) else k for k in keys)), F.lit(2**52))
        return (bits + 0.5) / float(2**52)

    def normal(self, name: str, *keys: Column | str) -> Column:
        """Mean 0, deviation 1 (Box-Muller)."""
        radius = F.sqrt(-2 * F.log(self.uniform(f"{name}/radius", *keys)))
        return radius * F.cos(2 * 3.141592653589793 * self.uniform(f"{name}/angle", *keys))

    def below(self, limit: Column | int, name: str, *keys: Column | str) -> Column:
        """A whole number in [0, limit)."""
        return F.floor(self.uniform(name, *keys) * limit).cast("int")

    def one_of(self, choices: tuple[str, ...], name: str, *keys: Column | str, skew: float = 1.0) -> Column:
        """One of `choices`; a skew above 1 prefers the first ones."""
        place = F.floor(F.pow(self.uniform(name, *keys), skew) * len(choices)).cast("int")
        return F.element_at(F.array(*map(F.lit, choices)), place + 1)

    def ident(self, prefix: str, *keys: Column | str) -> Column:
        """A 64-bit identifier as text."""
        return F.concat(F.lit(prefix), F.lpad(F.lower(F.hex(F.xxhash64(F.lit(self.seed), F.lit(prefix), *keys))), 16, "0"))


def users(numbers: DataFrame, draws: Draws) -> DataFrame:
    """From `id` BIGINT: user, user_id, persona, activity (log-odds; half the users on a day), peak hour."""
    return numbers.select(
        F.col("id").alias("user"),
        F.concat(F.lit("u"), F.lpad(F.col("id").cast("string"), 8, "0")).alias("user_id"),
        draws.below(PERSONAS, "persona", "id").alias("persona"),
        (1.4 * draws.normal("activity", "id")).alias("activity"),
        (10 + 12 * draws.uniform("peak", "id")).alias("peak"),
    )


def active_days(users: DataFrame, days: DataFrame, draws: Draws) -> DataFrame:
    """One row per user and active day: adds day (from 0), ds and the interest of that day."""
    weekday = F.dayofweek("ds")  # 1 is Sunday
    rhythm = F.when(weekday.isin(1, 7), 0.4).when(weekday.isin(3, 4), -0.25).otherwise(-0.05)
    chance = 1 / (1 + F.exp(-(F.col("activity") + rhythm)))
    epoch = F.floor((F.col("day") + draws.below(INTEREST_DAYS, "phase", "user")) / INTEREST_DAYS)
    everyone = users.crossJoin(F.broadcast(days))
    active = everyone.where(draws.uniform("active", "user", "day") < chance)
    return active.withColumn("interest", draws.below(len(CATEGORIES), "interest", "user", epoch))


def events(active_days: DataFrame, source: str, draws: Draws, late: float = LATE_SHARE) -> DataFrame:
    """One row per event of `source`, a share `late` of them delivered a day later: adds slot (1 to 10), category, item, second of the day and moments."""
    affinity = F.lit(PRESENT[source]) + 0.4 * (draws.uniform(f"{source}/affinity", "user") - 0.5)
    present = active_days.where(draws.uniform(f"{source}/present", "user", "day") < affinity)
    heaviness = 0.5 + 0.6 * draws.uniform(f"{source}/heaviness", "user")
    count = F.ceil(MAX_EVENTS * F.pow(draws.uniform(f"{source}/count", "user", "day"), heaviness)).cast("int")
    rows = present.withColumn("slot", F.explode(F.sequence(F.lit(1), count)))
    rows = rows.withColumn("category_number", _category(source, draws))
    rows = rows.select(
        "*", _item(source, draws).alias("item"), _second(source, draws).alias("second"), (draws.uniform(f"{source}/late", *EVENT) < late).alias("late")
    )
    names = F.array(*map(F.lit, CATEGORIES))
    return rows.select(
        "*",
        F.element_at(names, F.col("category_number") + 1).alias("category"),
        F.date_add("ds", F.col("late").cast("int")).alias("delivered_ds"),
        _moment(F.col("ds"), F.col("second")).alias("event_at"),
        _moment(F.date_add("ds", 1 + F.col("late").cast("int")), 1800 + draws.below(3 * 3600, f"{source}/delivery", *EVENT)).alias("delivered_at"),
    )


EVENT = ("user", "day", "slot")


def _category(source: str, draws: Draws) -> Column:
    """Half the interest of the day, then the persona, then this source's habit, then anything (long tail)."""
    which = draws.uniform(f"{source}/which", *EVENT)
    persona = F.pmod(F.col("persona") * 3 + draws.below(2, f"{source}/side", *EVENT), F.lit(len(CATEGORIES)))
    habit = draws.below(len(CATEGORIES), f"{source}/habit", "user")
    anything = F.floor(len(CATEGORIES) * F.pow(draws.uniform(f"{source}/any", *EVENT), 1.6)).cast("int")
    return F.when(which < 0.5, F.col("interest")).when(which < 0.75, persona).when(which < 0.87, habit).otherwise(anything).cast("int")


def _item(source: str, draws: Draws) -> Column:
    """Half the time the user's own favourite of the category, else by popularity (a long tail)."""
    popular = F.pow(draws.uniform(f"{source}/item", *EVENT), 3)
    favourite = F.pow(draws.uniform(f"{source}/favourite", "user", "category_number"), 3)
    chosen = F.when(draws.uniform(f"{source}/loyal", *EVENT) < 0.5, favourite).otherwise(popular)
    return F.floor(ITEMS[source] * chosen).cast("int") + 1


def _second(source: str, draws: Draws) -> Column:
    """Around the user's hour (applications: an hour of their own); no two events of a slice share a second."""
    peak = F.col("peak") if source != "app" else 24 * draws.uniform("app/peak", "user")
    second = F.pmod(F.floor(3600 * (peak + 3.5 * draws.normal(f"{source}/hour", *EVENT))), F.lit(86400))
    return (F.floor(second / 16) * 16 + F.col("slot")).cast("int")


def _moment(day: Column, second: Column) -> Column:
    """The local clock as text, yyyy-MM-dd HH:mm:ss."""
    return F.date_format(F.timestamp_seconds(F.unix_date(day).cast("bigint") * 86400 + second), "yyyy-MM-dd HH:mm:ss")


def attribute_label(users: DataFrame, draws: Draws) -> DataFrame:
    """A stable attribute: user_id, label BOOLEAN; follows the persona, with noise."""
    odds = reduce(lambda rest, p: F.when(F.col("persona") == p, F.lit(0.15 + 0.14 * p)).otherwise(rest), range(PERSONAS), F.lit(0.5))
    return users.select("user_id", (draws.uniform("label/attribute", "user") < odds).alias("label"))


def coming_week_label(users: DataFrame, days: DataFrame, bills: DataFrame, last_day: int) -> DataFrame:
    """user_id, at (local noon of the day, as text), label: pays for travel on one of the 7 days after `at`'s."""
    travel = bills.where(F.col("category") == "travel").select("user", F.explode(F.sequence(F.col("day") - 7, F.col("day") - 1)).alias("day")).distinct()
    asked = users.crossJoin(F.broadcast(days.where(F.col("day") <= last_day)))
    joined = asked.join(travel.withColumn("label", F.lit(True)), on=["user", "day"], how="left")
    return joined.select("user_id", _moment(F.col("ds"), F.lit(43200)).alias("at"), F.coalesce("label", F.lit(False)).alias("label"))
