"""A lakehouse belongs to the catalog that it was made with: its source tables have the declared columns, and no others.

Asked before a stage writes: a table that lacks a column, or has one more, would stop it in the middle.
"""

from jobs.context import Context
from jobs.errors import BadInput
from schemas.source_events import source_events


def require_its_columns(context: Context) -> None:
    """Raises `BadInput` where a source's table, if there is one, has other columns or types than its declaration. Cost: a schema per source."""
    for source in context.catalog.sources:
        table = source_events(source)
        if not context.lake.exists(table.name):
            continue
        declared = {f"{field.name} {field.type.lower()}" for field in table.fields}
        found = {f"{field.name} {field.dataType.simpleString()}" for field in context.lake.read(table.name).schema}
        if found != declared:
            raise BadInput(
                f"table {table.name} in {context.lake.root}: found {_listed(found - declared)}, expected {_listed(declared - found)} as catalog "
                f"{context.catalog.name} declares; a lakehouse's columns are those of the catalog that it was made with: give that one, or another --root"
            )


def _listed(columns: set[str]) -> str:
    return f"column {', '.join(sorted(columns))}" if columns else "no further column"
