"""Makes a registered tokenizer the current one: one commit to `promotions`, which every view follows.

Reads `tokenizers`, `promotions`, the days of `user_tokens`; writes `promotions`. Key: seq. Idempotent on the version: the
current one is not promoted again. Publishes nothing, so days that the version has not published would vanish from the current
view, and days that were repaired since would be as before: a promotion is refused while one of the last 90 is, unless somebody
says why it may be. The commands have the lakehouse for themselves: one that works under the version before ends first.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from delta.tables import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.day_states import sum_text, summed, sums_by_day
from jobs.delta_tables import Where, on_days
from jobs.errors import BadInput, CommitConflict, GateRefused, Infrastructure
from jobs.gate_release import one_line
from jobs.ledger import StageRecord, record_stage
from jobs.registered_tokenizers import find_registered, promoted_version
from schemas.keys import Days
from schemas.tokenizers import PROMOTIONS

PROMOTE, ROLL_BACK = "promote_tokenizer", "roll_back_tokenizer"  # in the ledger and in commits
TRAILING = timedelta(days=90)  # what a user's sequence covers
DAYS_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What is current after the call, and whether the call changed it."""

    tokenizer_version: str
    seq: int
    changed: bool
    days: int  # published days of the version: with 0 the current view is empty
    missing: int = 0  # days that the version before had published and this one had not, or not as they are now

    def __str__(self) -> str:
        became = "is now current" if self.changed else "was current already; nothing written"
        warning = "" if self.days else "; no day of it is published yet, so the current view is empty"
        gap = f"; {self.missing} days are missing in the current view until they are published under it" if self.missing else ""
        return f"tokenizer {self.tokenizer_version} {became} (seq {self.seq}, {self.days} published days){warning}{gap}"


def latest(promotions: DataFrame) -> DataFrame:
    """One row: the greatest seq (0 where there is none) and its version (NULL where there is none)."""
    return promotions.agg(
        F.coalesce(F.max("seq"), F.lit(0)).alias("seq"),
        F.max_by("tokenizer_version", "seq").alias("tokenizer_version"),
    )


def missing_days(current: set[date], new: set[date]) -> list[date]:
    """Published days of the 90 that end with the current version's newest one, which the new version has not published."""
    if not current:
        return []
    newest = max(current)
    return sorted(day for day in current - new if day > newest - TRAILING)


def run(context: Context, version: str, reason: str, allow_gap: str | None = None) -> Promotion:
    """Raises `BadInput` for a version that is not registered, `GateRefused` for one that lacks days without a reason why it may."""
    with record_stage(context, PROMOTE, None) as record:
        return _promote(context, version, reason, allow_gap, record)


def roll_back(context: Context, reason: str, allow_gap: str | None = None) -> Promotion:
    """Promotes the version that was current before the current one. A second one comes back to where it was; the repetition of one
    that was cut short after its commit, before the ledger had it, stays there."""
    with record_stage(context, ROLL_BACK, None) as record:
        promotions = context.lake.read("promotions")
        current = promoted_version(context)
        before = promotions.where(F.col("tokenizer_version") != F.lit(current)).agg(F.max_by("tokenizer_version", "seq").alias("version")).first()
        if current is None or before is None or before["version"] is None:
            raise BadInput(f"roll-back: {current or 'no tokenizer'} is current and none was before it; `u2qt tokenizer list` shows what can be promoted")
        return _promote(context, current if _cut_short(context) else before["version"], reason, allow_gap, record)


def _cut_short(context: Context) -> bool:
    """Whether the newest promotion is a roll-back's of which the ledger has no end."""
    seq, _ = latest(context.lake.read("promotions")).collect()[0]
    stage = F.get_json_object("userMetadata", "$.stage")
    history = DeltaTable.forPath(context.spark, context.lake.path("promotions")).history().where(stage.isin(PROMOTE, ROLL_BACK))
    last = history.agg(F.max_by(stage, "version").alias("stage")).collect()[0]["stage"]
    ends = context.lake.read("runs").where((F.col("stage") == ROLL_BACK) & (F.col("status") == "done"))
    return bool(last == ROLL_BACK and ends.where(F.get_json_object("detail", "$.seq") == str(seq)).isEmpty())


def gap(context: Context, version: str) -> list[date]:
    """The days that stand between `version` and its promotion, which it has not published or not as they are now; none while no tokenizer is promoted."""
    current = promoted_version(context)
    if current is None:
        return []
    shown, mine = published_days(context, current), published_days(context, version)
    both = [ds for ds in missing_days(shown, set()) if ds in mine]
    return sorted({*missing_days(shown, mine), *_stale_days(context, current, version, both)})


def _stale_days(context: Context, current: str, version: str, days: list[date]) -> list[date]:
    """Those of `days` that `version` published from other features than `current` did and than there are now: a repair came between.

    Reads ds and `row_hash` of the days' tokens and features; the driver sees a row per day and version.
    """
    if not days:
        return []
    span = Days(days[0], days[-1])
    tokens = on_days(context.lake.read("user_tokens"), span).where(F.col("tokenizer_version").isin(current, version))
    published = {(row["ds"], row["tokenizer_version"]): sum_text(row) for row in summed(tokens, "ds", "tokenizer_version").collect()}
    features = sums_by_day(on_days(context.lake.read("user_features"), span), span)
    return [ds for ds in days if published[ds, version] not in (published[ds, current], features[ds])]


def published_days(context: Context, version: str) -> set[date]:
    where = Where(equals=(("tokenizer_version", version),))
    files = context.lake.active_files("user_tokens", context.lake.version("user_tokens"), where)
    return {date.fromisoformat(file.partition["ds"]) for file in files}


def _promote(context: Context, version: str, reason: str, allow_gap: str | None, record: StageRecord) -> Promotion:
    find_registered(context, version)
    seq, current = latest(context.lake.read("promotions")).collect()[0]
    changed = current != version
    missing = gap(context, version) if changed else []
    if changed:
        _require_no_gap(version, missing, allow_gap)
        seq += 1
        row = {"seq": seq, "tokenizer_version": version, "reason": reason, "missing_days": len(missing), "allowed_gap": allow_gap, "run_id": context.run_id}
        record.written["promotions"] = _write(context, row, record)
    record.rows["promotions"] = int(changed)
    record.notes |= {"tokenizer_version": version, "seq": seq}
    return Promotion(tokenizer_version=version, seq=seq, changed=changed, days=len(published_days(context, version)), missing=len(missing))


def _require_no_gap(version: str, missing: list[date], allow_gap: str | None) -> None:
    if not missing and allow_gap is not None:
        raise BadInput(f"--allow-gap: nothing to allow, no published day is missing under {version}; promote it without")
    if missing and allow_gap is None:
        named = ", ".join(map(str, missing[:DAYS_NAMED])) + (f" and {len(missing) - DAYS_NAMED} more" if len(missing) > DAYS_NAMED else "")
        raise GateRefused(
            f"tokenizer {version}: not promoted, it has not published {len(missing)} of the current version's last {TRAILING.days} days ({named}), "
            "or not as they are now: they would vanish from user_tokens_current, or lose late rows there; "
            f"run `u2qt tokenizer shadow {version}`, or give --allow-gap REASON"
        )
    if allow_gap is not None:
        one_line("--allow-gap", allow_gap)


def _write(context: Context, row: dict[str, object], record: StageRecord) -> int:
    """Replaces the (empty) set of rows with this seq, so that seq stays unique whatever is promoted at the same time."""
    seq, metadata = row["seq"], {"run_id": context.run_id, "stage": record.stage, "tokenizer_version": row["tokenizer_version"]}
    late = Infrastructure(f"promotions seq {seq}: another promotion was committed meanwhile; look at `u2qt tokenizer list`, then run again")

    def require_unused() -> None:
        if latest(context.lake.read("promotions")).collect()[0]["seq"] >= seq:
            raise late

    try:
        return context.lake.replace("promotions", context.lake.frame(PROMOTIONS, [row]), Where(equals=(("seq", str(seq)),)), metadata, check=require_unused)
    except CommitConflict:
        raise late from None
