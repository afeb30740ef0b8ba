"""What runs in an executor's Python: row groups streamed by Petastorm through the frozen tokenizer, codes as columns.

Knows nothing of tables or stages. A worker process loads a tokenizer once and keeps it by fingerprint.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from pyspark import SparkFiles
from pyspark.sql import Column
from pyspark.sql import functions as F

import u2qt_model
from u2qt_model import FeatureBatch, Tokenizer
from u2qt_model.errors import ModelError

Frames = Iterable[pd.DataFrame]


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenTokenizer:
    """How a worker finds the tokenizer: a folder that Spark unpacked from a shipped archive, and what it must hold."""

    folder: str  # named as the archive
    fingerprint: str
    sources: tuple[str, ...]

    def load(self) -> Tokenizer:
        return _loaded(SparkFiles.get(self.folder), self.fingerprint)


@lru_cache(maxsize=2)  # a worker encodes with one tokenizer, or compares two
def _loaded(folder: str, fingerprint: str) -> Tokenizer:
    tokenizer = u2qt_model.load(Path(folder))
    if tokenizer.fingerprint != fingerprint:
        raise ModelError(f"checkpoint {folder}: fingerprint {tokenizer.fingerprint[:16]} arrived, expected {fingerprint[:16]}")
    return tokenizer


def encode_units(frozen: FrozenTokenizer) -> Callable[[Frames], Iterator[pd.DataFrame]]:
    """For `mapInPandas` over rows (url, shard, shards, rows, ds): one row of codes per feature row of each unit."""

    def encode(frames: Frames) -> Iterator[pd.DataFrame]:
        from u2qt_model.stream import StreamUnit, read_units  # Petastorm: only where it is used

        tokenizer = frozen.load()
        for frame in frames:
            for unit in frame.to_dict("records"):
                planned = StreamUnit(url=unit["url"], shard=unit["shard"], shards=unit["shards"], rows=unit["rows"])
                for batch in read_units([planned], tokenizer.layout, events=tokenizer.config.reads_events):
                    yield _keyed_codes(batch, tokenizer).assign(ds=unit["ds"])

    return encode


def _keyed_codes(batch: FeatureBatch, tokenizer: Tokenizer) -> pd.DataFrame:
    if batch.user_id is None or batch.row_hash is None or batch.available_at is None:
        raise AssertionError("the stream was asked for the key columns")
    keys = pd.DataFrame(
        {
            "user_id": [user.decode("utf-8") for user in batch.user_id],
            "available_at": pd.to_datetime(batch.available_at, utc=True),
            "row_hash": batch.row_hash,
        }
    )
    return pd.concat([keys, code_columns(batch, tokenizer)], axis=1)


def code_columns(batch: FeatureBatch, tokenizer: Tokenizer) -> pd.DataFrame:
    """`<source>_codes` per source, one int16 array of length L per row, None where the source is absent."""
    codes = tokenizer.encode(batch)
    columns = {}
    for position, source in enumerate(tokenizer.layout.source_names):
        lists = pd.Series(list(codes[:, position, : tokenizer.vocabulary.levels_of(source)]), dtype=object)
        columns[f"{source}_codes"] = lists.where(codes[:, position, 0] >= 0, None)
    return pd.DataFrame(columns)


def tokens_udf(frozen: FrozenTokenizer) -> Callable[..., Column]:
    """An iterator pandas UDF over feature columns of any DataFrame, given as one struct: the codes as a struct.

        df.select("user_id", tokens_udf(frozen)(F.struct(*columns)).alias("codes")).select("user_id", "codes.*")

    The columns are `tokenizer.columns()`, typed as in `user_features`. Same codes as the daily stage.
    """
    fields = ", ".join(f"{source}_codes array<smallint>" for source in frozen.sources)

    @F.pandas_udf(fields)  # type: ignore[attr-defined, call-overload, untyped-decorator]
    def tokens(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        tokenizer = frozen.load()
        for frame in frames:
            columns = {name: frame[name].to_numpy() for name in frame.columns}
            yield code_columns(FeatureBatch.from_columns(columns, tokenizer.layout), tokenizer)

    return tokens  # type: ignore[no-any-return]
