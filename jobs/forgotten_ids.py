"""Who was forgotten, without saying who: keyed hashes of ids, and the rows of a delivery that are theirs.

The key is a file outside the lakehouse, so that who has the tables alone can't try ids out. It reaches executors inside a UDF,
never a plan. Rows are matched on the id as it was delivered, to the letter; a line that its format can't read, by any word of it.
"""

import hashlib
import hmac
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.errors import BadInput
from jobs.raw_input import CORRUPT

LEAST_BYTES = 32
CONSTANT = b"u2qt: which key is this"
WORD = re.compile(r"[^\s,;\t|\"'{}\[\]():=<>]+")
REMEDY = "make one with `openssl rand -hex 32 > FILE && chmod 600 FILE` and keep it outside the lakehouse: --forget-key FILE or U2QT_FORGET_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """The site's secret. It has no text form that could reach a log."""

    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.key_id})"

    @property
    def key_id(self) -> str:
        return self.hmac_of(CONSTANT.decode())[:16]

    def hmac_of(self, user_id: str) -> str:
        return hmac.new(self.secret, user_id.encode(), hashlib.sha256).hexdigest()


def read_key(path: str | None, lake_root: str) -> Key:
    """Raises `BadInput` for a key that is missing, short, open to others, or kept beside what it protects."""
    if path is None:
        raise BadInput(f"the key of forgotten ids: none given; {REMEDY}")
    file = Path(path).resolve()
    if not file.is_file():
        raise BadInput(f"the key of forgotten ids: no file {file}; {REMEDY}")
    if file.is_relative_to(lake_root):
        raise BadInput(f"the key of forgotten ids: {file} lies inside the lakehouse, where it protects nothing; move it out of {lake_root}")
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadInput(f"the key of forgotten ids: others may read {file}, expected mode 600; run `chmod 600 {file}`")
    secret = file.read_bytes().strip()
    if len(secret) < LEAST_BYTES:
        raise BadInput(f"the key of forgotten ids: {file} has {len(secret)} bytes, expected at least {LEAST_BYTES}; {REMEDY}")
    return Key(secret=secret)


def required_key(context: Context) -> Key | None:
    """The key, where somebody was forgotten; None where nobody was. Raises `BadInput` where it is missing or another one."""
    known = {row["key_id"] for row in context.lake.read("forgotten").select("key_id").distinct().limit(2).collect()}
    if not known:
        return None
    key = read_key(context.forget_key, context.lake.root)
    require_same(key, known)
    return key


def require_same(key: Key, known: set[str]) -> None:
    if known - {key.key_id}:
        raise BadInput(
            f"the key of forgotten ids: found key {key.key_id}, expected {', '.join(sorted(known))} as in table forgotten; "
            "with another key nobody would be recognised: give the file that was used before"
        )


def hmac_column(key: Key) -> Callable[[Column], Column]:
    """A UDF: the HMAC of an id, NULL of NULL."""

    @F.pandas_udf("string")  # type: ignore[attr-defined, call-overload, untyped-decorator]
    def hashed(ids: pd.Series) -> pd.Series:
        return ids.map(lambda user_id: None if user_id is None else key.hmac_of(user_id))

    return hashed  # type: ignore[no-any-return]


def hmacs_of_words(key: Key) -> Callable[[Column], Column]:
    """A UDF: the HMACs of the words of a line that could not be read."""

    @F.pandas_udf("array<string>")  # type: ignore[attr-defined, call-overload, untyped-decorator]
    def hashed(lines: pd.Series) -> pd.Series:
        return lines.map(lambda line: [key.hmac_of(word) for word in dict.fromkeys(WORD.findall(line or ""))])

    return hashed  # type: ignore[no-any-return]


def marked(checked: DataFrame, forgotten: DataFrame | None, key: Key | None) -> DataFrame:
    """`checked` with `forgotten` BOOLEAN: the row is of a user in `forgotten`. Without a key nobody was."""
    if key is None or forgotten is None:
        return checked.withColumn("forgotten", F.lit(False))
    hashes = forgotten.select(F.col("hmac").alias("hmac"), F.lit(True).alias("is_theirs")).distinct()
    theirs = F.coalesce("is_theirs", F.lit(False))
    fields = checked.schema["raw"].dataType.fieldNames()  # type: ignore[attr-defined]
    torn = F.col("raw").getField(CORRUPT).isNotNull() if CORRUPT in fields else F.lit(False)
    whole = checked.where(~torn).withColumn("hmac", hmac_column(key)(F.col("user_id"))).join(hashes, on="hmac", how="left")
    found = whole.select(*checked.columns, theirs.alias("forgotten"))
    if CORRUPT not in fields:
        return found
    words = checked.where(torn).withColumn("hmac", F.explode_outer(hmacs_of_words(key)(F.col("raw").getField(CORRUPT))))
    lines = words.join(hashes, on="hmac", how="left").groupBy(*checked.columns).agg(F.max(theirs).alias("forgotten"))
    return found.unionByName(lines)
