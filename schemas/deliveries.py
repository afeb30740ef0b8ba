"""`deliveries`: what became of the rows of each delivery. Key: source, delivered_ds, delivery_id."""

from schemas.table import RUN_ID, Table, optional, required

DELIVERIES = Table(
    name="deliveries",
    comment="One row per delivery of a source: rows_in = clean + quarantined + duplicates + forgotten, always.",
    fields=(
        required("source", "STRING", "Source."),
        required("delivered_ds", "DATE", "Day of the delivery."),
        required("delivery_id", "STRING", "Delivery, by default <source>-<delivered_ds>."),
        required("rows_in", "BIGINT", "Raw rows read."),
        required("clean", "BIGINT", "Rows written to source_<name>."),
        required("quarantined", "BIGINT", "Rows written to quarantine_<name>."),
        required("duplicates", "BIGINT", "Rows equal in every raw column to one already counted."),
        required("gate", "STRING", "passed or blocked, by the row minimum and the source's expectations; running: a validation began and did not end."),
        RUN_ID,
        optional("forgotten", "BIGINT", "Rows of users who asked to be forgotten, kept nowhere; NULL counts as none.", later=True),
        optional("nulls", "MAP<STRING, BIGINT>", "Clean rows without a value, per nullable column; NULL is not known.", later=True),
    ),
    partition_by=("source", "delivered_ds"),
    checks=(("outcomes_add_up", "rows_in = clean + quarantined + duplicates + coalesce(forgotten, 0)"),),
)
