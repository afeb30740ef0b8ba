"""The rules that part a raw row from a clean one: parsing, and the stable reason codes. Pure transforms.

A reason is `code:column`, in the declaration's names:
    null  type  range  category  too_long  control_chars      a value of a column
    time_unparsable  time_in_future  available_before_event   a moment
    row_malformed                                             a line that its format can't read
"""

import re
import sys
from collections.abc import Collection, Mapping
from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.day_states import null_safe_hash
from jobs.raw_input import CORRUPT
from schemas import catalog as declared
from schemas.catalog import Catalog, Source

CONTROL_CHARACTERS = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F]"  # tab, line feed and carriage return are text
# Spark also reads a time without a date (as today's) and zone names; both would make a value depend on more than itself.
ISO = r"^[+-]?\d{4,6}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d{1,9})?)?\s?(Z|[+-]\d{2}(:?\d{2})?)?)?$"
ISO_OFFSET = r":\d{2}.*(Z|[+-]\d{2}(:?\d{2})?)$"
PATTERN_OFFSET = re.compile(r"[XxZOVz]")  # Spark's pattern letters for an offset or zone, outside quoted text
MAX_USER_ID_CHARS = 512
LARGEST_DOUBLE, LARGEST_FEATURE = sys.float_info.max, 3.4028234663852886e38  # numeric features are 32-bit floats


def distinct_rows(raw: DataFrame) -> DataFrame:
    """One row per distinct raw row of a delivery, `copies` of it. Null-safe; content decides, hashes only pre-group."""
    return raw.groupBy("delivered_ds", "delivery_id", "raw").agg(F.count(F.lit(1)).alias("copies"))


def checked_rows(raw: DataFrame, source: Source, catalog: Catalog) -> DataFrame:
    """Adds the parsed columns, `ds` and `reasons` (empty: clean) to the distinct rows."""
    rows = distinct_rows(raw)
    fields = rows.schema["raw"].dataType.fieldNames()  # type: ignore[attr-defined]
    parsed = rows.select("*", *_parsed(source, catalog))
    reasons = F.array_compact(F.array(*_reasons(source, catalog, CORRUPT in fields)))
    return parsed.select("*", reasons.alias("reasons"), day_of("event_time", catalog.time_zone).alias("ds"))


def clean_rows(checked: DataFrame, source: Source) -> DataFrame:
    names = ["user_id", "event_time", "available_time", *(c.name for c in source.columns), "delivery_id", "delivered_ds"]
    return checked.where(F.size("reasons") == 0).select(*names, null_safe_hash(names).alias("row_hash"), "ds")


def quarantined_rows(checked: DataFrame, of_day: Mapping[date, Collection[str]] | None = None) -> DataFrame:
    """`of_day`: each day's own columns, where days are read together: what another day has alone is no column of a row's."""
    names = checked.schema["raw"].dataType.fieldNames()  # type: ignore[attr-defined]
    pairs = [part for name in names for part in (F.lit(name), F.col("raw").getField(name))]
    whole = F.map_filter(F.create_map(*pairs), lambda name, value: (name != CORRUPT) | value.isNotNull())  # read beside a torn row, a whole one is the same
    if of_day and len({frozenset(columns) for columns in of_day.values()}) > 1:
        listed = F.create_map(*(part for ds, columns in of_day.items() for part in (F.lit(ds), F.array(*map(F.lit, sorted(columns))))))
        whole = F.map_filter(whole, lambda name, _: F.array_contains(listed[F.col("delivered_ds")], F.lower(name)))
    return checked.where(F.size("reasons") > 0).select("delivery_id", "delivered_ds", "reasons", whole.alias("raw"))


def day_of(moment: str, time_zone: str) -> Column:
    """The day of a UTC moment in `time_zone`."""
    return F.to_date(F.from_utc_timestamp(moment, time_zone))


def end_of_day(day: Column, time_zone: str) -> Column:
    """The moment at which `day` ends in `time_zone`."""
    return F.to_utc_timestamp(F.date_add(day, 1).cast("timestamp"), time_zone)


def _raw(name: str) -> Column:
    return F.col("raw").getField(name)


def _parsed(source: Source, catalog: Catalog) -> list[Column]:
    user = _raw(source.entity_key.raw_name).alias("user_id")
    event = _moment(source.event_time, catalog.time_zone).alias("event_time")
    end = end_of_day(F.col("delivered_ds"), catalog.time_zone)
    available = end if source.available_time is None else _moment(source.available_time, catalog.time_zone)
    return [user, event, available.alias("available_time"), *(_typed(c, catalog.time_zone).alias(c.name) for c in source.columns)]


def _moment(field: declared.TimeField, time_zone: str) -> Column:
    return _timestamp(_raw(field.raw_name), field.format, field.zone or time_zone)


def _timestamp(text: Column, pattern: str | None, zone: str) -> Column:
    """NULL where `text` can't be read. A value that carries its own offset keeps it; else it is in `zone`."""
    if pattern is not None:
        parsed = F.try_to_timestamp(text, F.lit(pattern))
        absolute = PATTERN_OFFSET.search(re.sub(r"'[^']*'", "", pattern)) is not None
        return parsed if absolute else F.to_utc_timestamp(parsed, zone)
    parsed = _iso(text)
    return F.when(text.rlike(ISO_OFFSET), parsed).otherwise(F.to_utc_timestamp(parsed, zone))


def _iso(text: Column) -> Column:
    """ISO 8601 as Spark reads it, with at least a date; NULL for anything else."""
    return F.when(text.rlike(ISO), F.try_to_timestamp(text))


def _typed(column: declared.Column, time_zone: str) -> Column:
    text = _raw(column.source_column)
    if column.type == "timestamp":
        return _timestamp(text, column.format, column.zone or time_zone)
    if column.type == "date":
        return F.to_date(F.try_to_timestamp(text, F.lit(column.format)) if column.format else _iso(text))
    if column.type == "double":
        number = text.try_cast("double")
        return F.when(~F.isnan(number) & (F.abs(number) <= (LARGEST_FEATURE if column.role == "numeric" else LARGEST_DOUBLE)), number)
    return text if column.type == "string" else text.try_cast(column.type)


def _reasons(source: Source, catalog: Catalog, may_be_corrupt: bool) -> list[Column]:
    found = [_if(_raw(CORRUPT).isNotNull(), "row_malformed:row")] if may_be_corrupt else []
    user = F.col("user_id")
    found.append(_if(user.isNull() | (F.trim(user) == ""), "null:user_id"))
    found.append(_if(F.char_length(user) > MAX_USER_ID_CHARS, "too_long:user_id"))
    found.append(_if(user.rlike(CONTROL_CHARACTERS), "control_chars:user_id"))
    found += _moment_reasons("event_time", source.event_time)
    if source.available_time is not None:
        found += _moment_reasons("available_time", source.available_time)
    found.append(_if(F.col("event_time") >= end_of_day(F.col("delivered_ds"), catalog.time_zone), "time_in_future:event_time"))
    found.append(_if(F.col("available_time") < F.col("event_time"), "available_before_event:available_time"))
    for column in source.columns:
        found += _column_reasons(column)
    return found


def _moment_reasons(name: str, field: declared.TimeField) -> list[Column]:
    raw = _raw(field.raw_name)
    return [_if(raw.isNull(), f"null:{name}"), _if(raw.isNotNull() & F.col(name).isNull(), f"time_unparsable:{name}")]


def _column_reasons(column: declared.Column) -> list[Column]:
    raw, value, name = _raw(column.source_column), F.col(column.name), column.name
    found = [] if column.nullable else [_if(raw.isNull(), f"null:{name}")]
    if column.type != "string":
        found.append(_if(raw.isNotNull() & value.isNull(), f"type:{name}"))
    else:
        found.append(_if(F.char_length(value) > column.max_chars, f"too_long:{name}"))
        found.append(_if(value.rlike(CONTROL_CHARACTERS), f"control_chars:{name}"))
    if column.min is not None:
        found.append(_if(value < column.min, f"range:{name}"))
    if column.max is not None:
        found.append(_if(value > column.max, f"range:{name}"))
    if column.categories is not None:
        found.append(_if(~value.cast("string").isin(*column.categories), f"category:{name}"))
    return found


def _if(condition: Column, reason: str) -> Column:
    """`reason` where the condition is true; an unknown (null) condition gives no reason."""
    return F.when(condition, F.lit(reason))
