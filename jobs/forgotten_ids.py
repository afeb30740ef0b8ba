"""Who was forgotten, without saying who: keyed hashes of ids, and the rows of a delivery that are theirs.

The key is a file outside the lakehouse, so that who has the tables alone can't try ids out. It reaches executors inside a UDF,
never a plan. Ids are compared without white space and control characters at their ends: a delivery that pads them is no way back.
"""

import hashlib
import hmac
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.errors import BadInput, Infrastructure
from jobs.raw_input import CORRUPT

LEAST_BYTES = 32
CONSTANT = "u2qt: which key is this"
AT_THE_ENDS = r"^[\s\p{Z}\p{C}]+|[\s\p{Z}\p{C}]+$"
# Three ways to part a line that its format could not read: at every sign of CSV and JSON; at quotes; at CSV's separators.
SPLITS = (r"[\s,;|\"'{}\[\]():=<>\\]+", r"[\"']", r"[,;|\t\n]")
REMEDY = "make one with `openssl rand -hex 32 > FILE; chmod 600 FILE`, keep it outside the lakehouse, and give it by --key-file or U2QT_FORGET_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """The site's secret. It has no text form that could reach a log."""

    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.key_id})"

    @property
    def key_id(self) -> str:
        """Tells two keys apart: 16 hex digits."""
        return self.hmac_of(CONSTANT)[:16]

    def hmac_of(self, user_id: str) -> str:
        return hmac.new(self.secret, user_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def read_key(path: str | None, lake_root: str) -> Key:
    """Raises `Infrastructure` where there is no key, `BadInput` for one that is short, open to others, or kept beside what it protects."""
    if path is None:
        raise Infrastructure(f"the key of forgotten ids: none given, expected a file; {REMEDY}")
    file = Path(path).resolve()
    if not file.is_file():
        raise Infrastructure(f"the key of forgotten ids: no file {file}; {REMEDY}")
    if file.is_relative_to(lake_root):
        raise BadInput(f"the key of forgotten ids: {file} lies inside the lakehouse, where it protects nothing; move it out of {lake_root}")
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise BadInput(f"the key of forgotten ids: others may read {file} (mode {mode:o}), expected mode 600; run `chmod 600 {file}`")
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise Infrastructure(f"the key of forgotten ids: {file} can't be read ({error.strerror}); give a file of this user") from None
    if len(secret) < LEAST_BYTES:
        raise BadInput(f"the key of forgotten ids: {file} has {len(secret)} bytes, expected at least {LEAST_BYTES}; {REMEDY}")
    return Key(secret=secret)


def required_key(context: Context) -> Key | None:
    """The key, where somebody was forgotten; None where nobody was. Raises where it is missing, or another one."""
    known = known_keys(context)
    if not known:
        return None
    key = read_key(context.forget_key, context.lake.root)
    require_same(key, known)
    return key


def known_keys(context: Context) -> set[str]:
    """Of the hashes that are kept; one, or none."""
    return {row["key_id"] for row in context.lake.read("forgotten").select("key_id").distinct().limit(2).collect()}


def require_same(key: Key, known: set[str]) -> None:
    """Raises `BadInput` for a key that would recognise nobody."""
    if known - {key.key_id}:
        raise BadInput(
            f"the key of forgotten ids: found key {key.key_id}, expected {', '.join(sorted(known))} as in table forgotten; "
            "with another key nobody would be recognised: give the file that was used before"
        )


def plain(user_id: Column) -> Column:
    """An id as ids are compared; NULL where nothing is left."""
    bare = F.regexp_replace(user_id, AT_THE_ENDS, "")
    return F.when(bare != "", bare)


def words(line: Column) -> Column:
    """ARRAY: what may be an id in a line that could not be read, in the form of `plain`. Empty for NULL."""
    parts = F.flatten(F.array(*(F.split(line, pattern) for pattern in SPLITS)))
    return F.coalesce(F.array_distinct(F.array_compact(F.transform(parts, plain))), F.array().cast("array<string>"))


def hmac_column(key: Key) -> Callable[[Column], Column]:
    """A UDF: the HMAC of an id, NULL of NULL."""

    @F.pandas_udf("string")  # type: ignore[attr-defined, call-overload, untyped-decorator]
    def hashed(ids: pd.Series) -> pd.Series:
        return ids.map(lambda user_id: None if user_id is None else key.hmac_of(user_id))

    return hashed  # type: ignore[no-any-return]


def marked(checked: DataFrame, context: Context, key: Key | None) -> DataFrame:
    """`checked` with `forgotten` BOOLEAN: the row is of a user in table `forgotten`. Without a key nobody was."""
    return checked.withColumn("forgotten", F.lit(False)) if key is None else marked_by(checked, context.lake.read("forgotten"), key)


def marked_by(checked: DataFrame, forgotten: DataFrame, key: Key) -> DataFrame:
    hashes = forgotten.select("hmac", F.lit(True).alias("is_theirs")).distinct()
    theirs, hashed = F.coalesce("is_theirs", F.lit(False)), hmac_column(key)
    fields, user_id = checked.schema["raw"].dataType.fieldNames(), plain(F.col("user_id"))  # type: ignore[attr-defined]
    line = F.col("raw").getField(CORRUPT) if CORRUPT in fields else F.lit(None).cast("string")
    known = line.isNull() & user_id.isNotNull()
    whole = checked.where(known).withColumn("hmac", hashed(user_id)).join(hashes, on="hmac", how="left")
    found = whole.select(*checked.columns, theirs.alias("forgotten"))
    values = F.transform(F.array(*(F.col("raw").getField(name) for name in fields if name != CORRUPT)), plain)
    candidates = F.array_append(F.concat(words(line), F.when(user_id.isNull(), values).otherwise(F.array().cast("array<string>"))), user_id)
    each = checked.where(~known).withColumn("candidate", F.explode(candidates)).withColumn("hmac", hashed(F.col("candidate")))
    lines = each.join(hashes, on="hmac", how="left").groupBy(*checked.columns).agg(F.max(theirs).alias("forgotten"))
    return found.unionByName(lines)
