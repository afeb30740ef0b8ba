"""`quarantine_<name>`: rows that a declaration refuses, kept whole. Grain: one distinct raw row of one delivery."""

from schemas.table import RUN_ID, Table, required


def quarantine_table_name(source: str) -> str:
    return f"quarantine_{source}"


def quarantine(source: str) -> Table:
    return Table(
        name=quarantine_table_name(source),
        comment=f"Rows of {source} that validation refused, with every reason.",
        fields=(
            required("delivery_id", "STRING", "Delivery that brought the row."),
            required("delivered_ds", "DATE", "Day of that delivery; a row whose time can't be read has no ds."),
            required("reasons", "ARRAY<STRING>", "Stable codes, code:column, such as null:user_id; docs/catalog.md lists them."),
            required("raw", "MAP<STRING, STRING>", "The raw row, whole: raw column name to its value as text."),
            RUN_ID,
        ),
        partition_by=("delivered_ds",),
    )
