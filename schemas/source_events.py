"""`source_<name>`: the clean rows of one source, as delivered. Key: the declaration's dedup key, resolved by readers."""

from schemas.catalog import Source
from schemas.table import RUN_ID, Field, Table, optional, required


def source_table_name(source: str) -> str:
    return f"source_{source}"


def source_events(source: Source) -> Table:
    return Table(
        name=source_table_name(source.name),
        comment=f"Clean rows: {source.description}",
        fields=(
            required("user_id", "STRING", source.entity_key.comment),
            required("event_time", "TIMESTAMP", source.event_time.comment or "Moment of the event."),
            required("available_time", "TIMESTAMP", "Moment from which the row could be known."),
            *(_field(source, column.name) for column in source.columns),
            required("delivery_id", "STRING", "Delivery that brought the row."),
            required("delivered_ds", "DATE", "Day of that delivery."),
            required("row_hash", "BIGINT", "Null-safe xxhash64 of every value above."),
            required("ds", "DATE", "Day of the event in the catalog's time zone."),
            RUN_ID,
        ),
        partition_by=("delivered_ds", "ds"),
    )


def _field(source: Source, name: str) -> Field:
    column = source.column(name)
    unit = f" Unit: {column.unit}." if column.unit else ""
    return optional(name, column.type.upper(), column.comment + unit)
