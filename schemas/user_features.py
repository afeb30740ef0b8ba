"""`user_features`: one row per active user and day, flat and of fixed lengths, as Petastorm streams it. Key: user_id, ds.

Ids and texts are BINARY (UTF-8): the stream turns strings into fixed-width arrays and loses trailing NULs.
"""

from schemas.catalog import Catalog, Source
from schemas.table import RUN_ID, Field, Table, required


def user_features(catalog: Catalog) -> Table:
    per_source = [field for source in catalog.sources for field in _fields(source)]
    return Table(
        name="user_features",
        comment="What each active user did on a day, per source; the tokenizer's input.",
        fields=(
            required("user_id", "BINARY", "User id, UTF-8."),
            required("ds", "DATE", "Day in the catalog's time zone."),
            *per_source,
            required("available_at", "TIMESTAMP", "Cutoff: events known by then are in the row."),
            required("row_hash", "BIGINT", "xxhash64 of every value, null flag and array length above, without available_at."),
            RUN_ID,
        ),
        partition_by=("ds",),
    )


def content_columns(catalog: Catalog) -> tuple[str, ...]:
    """The columns that `row_hash` covers."""
    return ("user_id", "ds", *(f.name for s in catalog.sources for f in _fields(s)))


def _fields(source: Source) -> tuple[Field, ...]:
    name, ids, values = source.name, len(source.id_columns), len(source.value_names)
    if source.kind == "profile":
        return (
            required(f"{name}_count", "INT", "1 where a valid profile row exists, else 0."),
            required(f"{name}_values", "ARRAY<FLOAT>", f"{', '.join(source.value_names)}."),
            required(f"{name}_ids", "ARRAY<INT>", f"Hashed {', '.join(c.name for c in source.id_columns)}; 0 is absent."),
        )
    events = source.max_events
    return (
        required(f"{name}_text", "BINARY", f"Slice text, UTF-8, at most {source.max_text_chars} characters; empty when absent."),
        required(f"{name}_count", "INT", "Events of the day, cut ones included."),
        required(f"{name}_event_ids", "ARRAY<INT>", f"{events} latest events x {ids} hashed fields, 0 is padding."),
        required(f"{name}_event_values", "ARRAY<FLOAT>", f"{events} latest events x {values}: {', '.join(source.value_names)}."),
        required(f"{name}_mask", "ARRAY<INT>", f"{events} flags, 1 is an event."),
    )
