"""crosswalk_codes: for teams that must move from one tokenizer to another, which new codes stand where old ones stood.

Reads user_tokens (one pinned version); writes code_crosswalk. Key: old_version, new_version, source, level, old_code, new_code.
Idempotent on both versions: a second run replaces theirs. Only rows that both versions published of the same features count.
A crosswalk is a tally, no translation: a level's code means something below the codes above it, so look at level 1 first.
"""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.delta_tables import Where, on_days
from jobs.errors import BadInput
from jobs.ledger import record_stage
from jobs.registered_tokenizers import find_registered
from schemas.keys import Days
from schemas.user_tokens import codes_column

PLACE = ("source", "level")


@dataclass(frozen=True, kw_only=True, slots=True)
class Crosswalk:
    """What was written, and how well the most frequent new code of each old one does."""

    old: str
    new: str
    rows: int  # of user_tokens that both versions published of the same features
    pairs: int  # rows of code_crosswalk
    levels: tuple[Row, ...]  # source, level, slices, old_codes, kept: share of slices with the most frequent new code


def crosswalk(old: DataFrame, new: DataFrame, sources: tuple[str, ...]) -> DataFrame:
    """Slices per source, level, old and new code, with their shares; levels that only one version has are left out."""
    joined = old.alias("o").join(new.alias("n"), on=["user_id", "ds", "row_hash"], how="inner")
    pairs = F.array(*(F.struct(F.lit(s).alias("source"), _both(s).alias("codes")) for s in sources))
    slices = joined.select(F.explode(pairs).alias("slice")).select("slice.source", F.posexplode("slice.codes").alias("position", "both"))
    level, codes = (F.col("position") + 1).alias("level"), (F.col("both.old").alias("old_code"), F.col("both.new").alias("new_code"))
    both = slices.select("source", level, *codes).where(F.col("old_code").isNotNull() & F.col("new_code").isNotNull())
    counted = both.groupBy(*PLACE, "old_code", "new_code").agg(F.count("*").alias("slices"))
    share = {name: F.col("slices") / F.sum("slices").over(Window.partitionBy(*PLACE, f"{name}_code")) for name in ("old", "new")}
    return counted.select("*", share["old"].alias("share_of_old"), share["new"].alias("share_of_new"))


def _both(source: str) -> Column:
    """The slice's codes level by level; NULL where a version has no such level, or the user nothing in the source."""
    old, new = (F.col(f"{side}.{codes_column(source)}") for side in ("o", "n"))
    return F.zip_with(old, new, lambda before, after: F.struct(before.alias("old"), after.alias("new")))


def kept(walk: DataFrame) -> DataFrame:
    """Per source and level: slices, old codes, and the share of slices whose new code is their old code's most frequent one."""
    best = walk.groupBy(*PLACE, "old_code").agg(F.max("slices").alias("best"), F.sum("slices").alias("slices"))
    return best.groupBy(*PLACE).agg(F.sum("slices").alias("slices"), F.count("*").alias("old_codes"), (F.sum("best") / F.sum("slices")).alias("kept"))


def run(context: Context, old: str, new: str, days: Days | None = None) -> Crosswalk:
    """Over `days`, or every day that both published. Raises `BadInput` where no row is in both."""
    if old == new:
        raise BadInput(f"crosswalk {old} {new}: found the same version twice, expected two")
    with record_stage(context, "crosswalk_codes", days) as record:
        versions = [find_registered(context, name).version for name in (old, new)]
        record.read["user_tokens"] = context.lake.version("user_tokens")
        tokens = context.lake.read("user_tokens", record.read["user_tokens"])
        tokens = tokens if days is None else on_days(tokens, days)
        sides = [tokens.where(F.col("tokenizer_version") == name) for name in versions]
        rows = sides[0].join(sides[1], on=["user_id", "ds", "row_hash"], how="inner").count()
        if not rows:
            raise BadInput(f"crosswalk {old} {new}: no row is published under both; run `u2qt tokenizer shadow {new}` first")
        walk = crosswalk(sides[0], sides[1], tuple(s.name for s in context.catalog.sources))
        named = {"old_version": F.lit(old), "new_version": F.lit(new), "run_id": F.lit(context.run_id)}
        where = Where(equals=(("old_version", old), ("new_version", new)))
        metadata = {"run_id": context.run_id, "stage": record.stage}
        record.written["code_crosswalk"] = context.lake.replace("code_crosswalk", walk.withColumns(named).coalesce(1), where, metadata)
        written = context.lake.read("code_crosswalk", record.written["code_crosswalk"]).where(where.sql())
        record.rows |= {"user_tokens": rows, "code_crosswalk": written.count()}
        order = {source.name: place for place, source in enumerate(context.catalog.sources)}
        levels = sorted(kept(written).collect(), key=lambda row: (order[row.source], row.level))
        return Crosswalk(old=old, new=new, rows=rows, pairs=record.rows["code_crosswalk"], levels=tuple(levels))
