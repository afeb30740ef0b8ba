"""Makes a registered tokenizer the current one: one commit to `promotions`, which every view follows.

Reads `tokenizers`, `promotions`; writes `promotions`. Key: seq. Idempotent on the version: the current one is not
promoted again. Publishes nothing: days that the version has not published are absent from the current view.
"""

from dataclasses import dataclass

from delta.exceptions import DeltaConcurrentModificationException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.delta_tables import Where
from jobs.errors import Infrastructure
from jobs.ledger import record_stage
from jobs.registered_tokenizers import find_registered

ROW = "seq BIGINT, tokenizer_version STRING, reason STRING, run_id STRING"


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What is current after the call, and whether the call changed it."""

    tokenizer_version: str
    seq: int
    changed: bool
    days: int  # published days of the version: with 0 the current view is empty

    def __str__(self) -> str:
        became = "is now current" if self.changed else "was current already; nothing written"
        warning = "" if self.days else "; no day of it is published yet, so the current view is empty"
        return f"tokenizer {self.tokenizer_version} {became} (seq {self.seq}, {self.days} published days){warning}"


def latest(promotions: DataFrame) -> DataFrame:
    """One row: the greatest seq (0 where there is none) and its version (NULL where there is none)."""
    return promotions.agg(
        F.coalesce(F.max("seq"), F.lit(0)).alias("seq"),
        F.max_by("tokenizer_version", "seq").alias("tokenizer_version"),
    )


def run(context: Context, version: str, reason: str) -> Promotion:
    """Raises `BadInput` for a version that is not registered."""
    with record_stage(context, "promote_tokenizer", None) as record:
        find_registered(context, version)
        seq, current = latest(context.lake.read("promotions")).collect()[0]
        changed = current != version
        if changed:
            seq += 1
            record.written["promotions"] = _write(context, seq, version, reason)
        record.rows["promotions"] = int(changed)
        record.notes |= {"tokenizer_version": version, "seq": seq}
    return Promotion(tokenizer_version=version, seq=seq, changed=changed, days=_published_days(context, version))


def _write(context: Context, seq: int, version: str, reason: str) -> int:
    """Replaces the (empty) set of rows with this seq, so that seq stays unique whatever is promoted at the same time."""
    rows = context.spark.createDataFrame([(seq, version, reason, context.run_id)], ROW).coalesce(1)
    metadata = {"run_id": context.run_id, "stage": "promote_tokenizer", "tokenizer_version": version}
    try:
        return context.lake.replace("promotions", rows, Where(equals=(("seq", str(seq)),)), metadata)
    except DeltaConcurrentModificationException:
        raise Infrastructure(f"promotions seq {seq}: another promotion was committed meanwhile; look at `u2qt tokenizer list`, then run again") from None


def _published_days(context: Context, version: str) -> int:
    where = Where(equals=(("tokenizer_version", version),))
    files = context.lake.active_files("user_tokens", context.lake.version("user_tokens"), where)
    return len({file.partition["ds"] for file in files})
