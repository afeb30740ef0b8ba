"""Which days a retention removes from which tables, what it has removed, and that no stage works on what is gone.

Days are counted back from the newest day that the promoted tokenizer has published, never from the clock: a feed that
stands still loses nothing. What is removed is noted in the ledger before it is removed. The plan leaves such days alone;
a stage that would make rows of a day from inputs that are gone refuses it, for the rows would be fewer and look whole.
"""

from collections.abc import Set
from dataclasses import dataclass, fields
from datetime import date

from pyspark.sql import functions as F

from jobs.context import Context
from jobs.day_states import last_done, runs_of_days, sums_by_day, tokens_hash
from jobs.delta_tables import Where, on_days
from jobs.errors import BadInput
from jobs.promote_tokenizer import TRAILING, published_days
from jobs.registered_tokenizers import promoted_version
from schemas.keys import Days
from schemas.quarantine import quarantine_table_name
from schemas.source_events import source_table_name

STAGE = "maintain_lakehouse"
NOTE = "removed_through"  # in the ledger's detail: table -> last day removed
EVER = date(1900, 1, 1)
STAGED = "staged_user_tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Days kept per kind of table; None keeps them all."""

    source_days: int | None = None  # source_<name> and quarantine_<name>
    feature_days: int | None = None
    staged_days: int | None = None
    token_days: int | None = None  # user_tokens and user_tokens_superseded

    def __post_init__(self) -> None:
        for field in fields(self):
            days = getattr(self, field.name)
            if days is not None and days < 1:
                raise BadInput(f"days to keep: found {days}, expected 1 or more")
        if self.token_days is not None and self.token_days < TRAILING.days:
            raise BadInput(f"--keep-token-days {self.token_days}: expected {TRAILING.days} or more, the days of which a user's sequence consists")

    @property
    def everything(self) -> bool:
        return all(getattr(self, field.name) is None for field in fields(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """Partitions of `table` to remove; their days are not after `through`."""

    table: str
    through: date
    wheres: tuple[Where, ...]


def removals(context: Context, keep: Keep) -> list[Removal]:
    """Oldest inputs last to go: nothing that a kept day's features are made of is among them."""
    if keep.everything:
        return []
    newest = _newest_published(context)
    found: list[Removal] = []
    if keep.source_days is not None:
        found += _of_sources(context, _before(newest, keep.source_days))
    if keep.feature_days is not None:
        found.append(_removal("user_features", _before(newest, keep.feature_days)))
    if keep.staged_days is not None:
        found.append(_of_stage(context, _before(newest, keep.staged_days)))
    if keep.token_days is not None:
        found += [_removal(table, _before(newest, keep.token_days)) for table in ("user_tokens", "user_tokens_superseded")]
    return found


def _before(day: date, days: int) -> date:
    """`days` before `day`, and not before there was any."""
    return date.fromordinal(max(EVER.toordinal(), day.toordinal() - days))


def _newest_published(context: Context) -> date:
    version = promoted_version(context)
    days = published_days(context, version) if version is not None else set()
    if not days:
        raise BadInput(f"retention: {version or 'no tokenizer'} is promoted and has published nothing, expected a day to count back from; leave --keep-... out")
    return max(days)


def _removal(table: str, through: date, column: str = "ds") -> Removal:
    return Removal(table=table, through=through, wheres=(Where(days=Days(EVER, through), day_column=column),))


def _of_sources(context: Context, through: date) -> list[Removal]:
    """A clean row goes when its day and its delivery are both old: kept days and kept deliveries stay whole.

    Rows of the profile stay for as long as a kept day looks back, for ever where that has no bound.
    """
    found = [_removal(quarantine_table_name(source.name), through, "delivered_ds") for source in context.catalog.sources]
    for source in context.catalog.sources:
        last = through
        if source.kind == "profile":
            if source.lookback_days is None:
                continue
            last = _before(through, source.lookback_days)
        days = Days(EVER, last)
        where = Where(days=days, also=Where(days=days, day_column="delivered_ds"))
        found.append(Removal(table=source_table_name(source.name), through=last, wheres=(where,)))
    return found


def _of_stage(context: Context, through: date) -> Removal:
    """Staged days that were published as they are; the others may be on their way."""
    there = _version_days(context, STAGED, through) & _version_days(context, "user_tokens", through)
    ready = {
        (version, ds) for version in {name for name, _ in there} for ds in _published_as_staged(context, version, {d for name, d in there if name == version})
    }
    wheres = [
        Where(days=days, equals=(("tokenizer_version", version),))
        for version in sorted({name for name, _ in ready})
        for days in runs_of_days(ds for name, ds in ready if name == version)
    ]
    return Removal(table=STAGED, through=through, wheres=tuple(wheres))


def _published_as_staged(context: Context, version: str, days: Set[date]) -> set[date]:
    """Those of `days` whose staged rows are those of their last publish; others are still to be published."""
    span = Days(min(days), max(days))
    rows = on_days(context.lake.read(STAGED), span).where(F.col("tokenizer_version") == F.lit(version))
    now = sums_by_day(rows.select("ds", tokens_hash([source.name for source in context.catalog.sources]).alias("row_hash")), span)
    published = last_done(context, "publish_tokens", span, version)
    return {ds for ds in days if ds in published and published[ds].inputs.get(STAGED) == now[ds]}


def _version_days(context: Context, table: str, through: date) -> set[tuple[str, date]]:
    """Tokenizer versions and days up to `through` that the table has files of."""
    files = context.lake.snapshot_files(table, where=Where(days=Days(EVER, through)))
    keys = [F.col("partitionValues").getItem(name).alias(name) for name in ("tokenizer_version", "ds")]
    return {(row["tokenizer_version"], date.fromisoformat(row["ds"])) for row in files.select(*keys).distinct().collect()}


def removed_through(context: Context) -> dict[str, date]:
    """Per table the last day that a retention removed, by the ledger."""
    ledger = context.lake.read("runs").where((F.col("stage") == STAGE) & F.col("detail").isNotNull())
    noted = F.from_json(F.get_json_object("detail", f"$.{NOTE}"), "map<string,date>")
    rows = ledger.select(F.explode(noted).alias("table", "day")).groupBy("table").agg(F.max("day").alias("day")).collect()
    return {row["table"]: row["day"] for row in rows}


def sources_gone(context: Context, removed: dict[str, date]) -> date | None:
    """Up to this day clean events are gone, and so a day's features can't be made again."""
    return max((removed[name] for source in context.catalog.events if (name := source_table_name(source.name)) in removed), default=None)


def require_sources(context: Context, days: Days) -> None:
    """Raises `BadInput` when clean rows of a day were removed."""
    through = sources_gone(context, removed_through(context))
    if through is not None and days.first <= through:
        raise BadInput(
            f"features of {days}: clean rows of days up to {through} were removed by `u2qt maintain --keep-...`, expected whole days; what was published "
            "stays as it is. Where the raw deliveries still lie there: `u2qt validate` these days and those after them, then `u2qt build --force`"
        )


def require_features(context: Context, days: Days) -> None:
    """Raises `BadInput` when feature rows of a day were removed and not made again."""
    through = removed_through(context).get("user_features")
    if through is None or days.first > through:
        return
    old = Days(days.first, min(days.last, through))
    files = context.lake.snapshot_files("user_features", where=Where(days=old))
    there = {row["ds"] for row in files.select(F.col("partitionValues.ds").alias("ds")).distinct().collect()}
    gone = [ds for ds in old if str(ds) not in there]
    if gone:
        raise BadInput(
            f"user_features, {gone[0]}: its rows were removed by `u2qt maintain --keep-...`, expected them; what was published stays as it is. "
            f"Where its clean rows are kept: `u2qt build --ds {gone[0]} --force`"
        )
