"""Creates every table of the lakehouse that is not there yet; the only place that creates or alters tables.

Reads nothing; writes empty tables. Idempotent: an existing table gets only the columns that a later release declares
(empty in its rows), and a table whose columns differ from the catalog's is refused rather than altered.
"""

from concurrent.futures import ThreadPoolExecutor

from jobs.context import Context
from jobs.errors import BadInput
from jobs.source_columns import require_its_columns
from schemas.lakehouse import tables
from schemas.table import Table

PARALLEL_CREATIONS = 4  # a creation is mostly waiting for the log; more threads gained nothing on 2 cores


def missing_columns(table: Table, found: list[str]) -> list[str]:
    return [column for column in table.columns if column not in found]


def run(context: Context) -> dict[str, int]:
    """Returns the number of tables created, of tables that were there, and of columns added to these."""
    wanted = tables(context.catalog)
    with context.lake.commit_lock():
        require_its_columns(context)  # before anything is made for a wrong catalog
        check_tables(context, existing=True)
    with context.lake.commit_lock(), ThreadPoolExecutor(PARALLEL_CREATIONS) as pool:
        made = list(pool.map(context.lake.create, wanted))
        later = [table for table, new in zip(wanted, made, strict=True) if not new and any(field.later for field in table.fields)]
        added = sum(len(columns) for columns in pool.map(context.lake.add_later_columns, later))
        for table in later:
            context.lake.renew_checks(table)
    check_tables(context)
    return {"created": sum(made), "existing": len(made) - sum(made), "columns_added": added}


def check_tables(context: Context, *, existing: bool = False) -> None:
    """Raises `BadInput` when a table is missing or made for another catalog; `existing`: of those there are, but for columns to be added."""
    for table in tables(context.catalog):
        if existing and not context.lake.exists(table.name):
            continue
        later = {field.name for field in table.fields if field.later} if existing else set()
        absent = [column for column in missing_columns(table, context.lake.read(table.name).columns) if column not in later]
        if absent:
            raise BadInput(
                f"table {table.name} in {context.lake.root}: has no column {', '.join(absent)}, which catalog "
                f"{context.catalog.name} declares; use the catalog that the lakehouse was made for, or another --root"
            )


if __name__ == "__main__":
    from jobs.cli import submit

    submit("init")
