"""Writes a label table with the tokens that were known at each label's time, as a folder of Parquet files.

Reads the labels, `user_tokens`, `user_tokens_superseded`, `runs`, `tokenizers`, `promotions`; writes `out`, outside the
lakehouse. Key: one row per label row. Refuses to write over anything, so a run is repeated under another name.
`join_tokens` is the same join on DataFrames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.errors import BadInput, Infrastructure
from jobs.label_input import first_line, naming_labels, pinned_tokens, published_repairs, read_labels, refuse_labels_seen_in_training
from jobs.ledger import StageRecord, record_stage
from jobs.point_in_time import ONE_DAY, join_tokens, quoted
from jobs.registered_tokenizers import find_registered

__all__ = ["Joined", "join_tokens", "published_repairs", "refuse_labels_seen_in_training", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """What was written."""

    out: str
    tokenizer_version: str
    labels: int
    with_tokens: int

    def __str__(self) -> str:
        found = f"{self.with_tokens} of them with tokens of tokenizer {self.tokenizer_version}"
        return f"{self.out}: {self.labels} labels, {found}"


def run(
    context: Context,
    labels: str,
    *,
    at: str,
    out: str,
    keys: Sequence[str] = ("user_id",),
    lag: timedelta = ONE_DAY,
    sequence_days: int | None = None,
    tokenizer_version: str | None = None,
    allow_trained_after: bool = False,
) -> Joined:
    """`labels` is a table or a Parquet or CSV path; the rows are written in the order of `keys`, then `at`."""
    with record_stage(context, "join_labels", None) as record:
        tokenizer = find_registered(context, tokenizer_version)
        version = tokenizer.version
        frame = read_labels(context, labels, at)
        tokens, superseded = pinned_tokens(context, version, record)
        zone = context.catalog.time_zone
        joined = join_tokens(
            frame,
            tokens,
            superseded,
            tokenizer_version=version,
            keys=keys,
            at=at,
            lag=lag,
            time_zone=zone,
            sequence_days=sequence_days,
        )
        with naming_labels(context, labels):
            if not allow_trained_after:
                through = tokenizer.trained_through
                refuse_labels_seen_in_training(frame, at=at, time_zone=zone, trained_through=through, tokenizer_version=version)
            _write(joined.orderBy(*(quoted(name) for name in (*keys, at))), out)
        return _reconciled(context, frame, out, version, record)


def _write(joined: DataFrame, out: str) -> None:
    try:
        joined.write.mode("errorifexists").parquet(out)
    except AnalysisException as error:
        raise BadInput(f"--out {out}: {first_line(error)}; expected a folder that does not exist yet") from None


def _reconciled(context: Context, frame: DataFrame, out: str, version: str, record: StageRecord) -> Joined:
    """Counts what was written against the labels; a difference stops the run."""
    labels = frame.count()
    written, with_tokens = context.spark.read.parquet(out).agg(F.count(F.lit(1)), F.count("token_ds")).collect()[0]
    if written != labels:
        raise Infrastructure(f"--out {out}: {written} rows written for {labels} labels; the labels changed meanwhile: delete it, run again")
    record.rows |= {"labels": labels, "with_tokens": with_tokens}
    record.notes |= {"tokenizer_version": version}
    return Joined(out=out, tokenizer_version=version, labels=labels, with_tokens=with_tokens)


if __name__ == "__main__":
    from jobs.cli import submit

    submit("join")
