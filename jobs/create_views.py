"""Makes the lakehouse's tables and views visible to SQL: in this session's catalog, or for good in a site's metastore.

Reads nothing; writes no table, only catalog entries: every table of the lakehouse and the views of `schemas/views`,
whose SQL is completed with the catalog's source names. Idempotent. With `spark.sql.catalogImplementation=hive` the
entries outlive the session; `ddl` prints the same statements for a metastore that somebody else administers.
"""

import importlib.resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.context import Context
from jobs.errors import BadInput
from schemas import keys
from schemas.catalog import Catalog
from schemas.lakehouse import tables

VIEWS = ("user_tokens_current", "user_tokens_long", "user_token_sequences", "codebook_usage")  # reading earlier ones only
PLACEHOLDER = "{source}"
IN_MEMORY = "in-memory"  # Spark's word for a catalog that ends with its session


def view_sql(view: str, sources: tuple[str, ...]) -> str:
    """The CREATE VIEW statement for a catalog of these sources, in their order."""
    file = importlib.resources.files("schemas").joinpath("views", f"{keys.name(view)}.sql")
    return complete(file.read_text(encoding="utf-8"), sources)


def complete(template: str, sources: tuple[str, ...]) -> str:
    """Each line that holds `{source}` once per source, joined by commas; all other lines as they are."""
    lines = []
    for line in template.strip().splitlines():
        if PLACEHOLDER in line:
            lines.append(",\n".join(line.replace(PLACEHOLDER, keys.name(source)) for source in sources))
        else:
            lines.append(line)
    return "\n".join(lines)


def statements(catalog: Catalog, root: str) -> list[str]:
    """CREATE TABLE for every table under `root`, then CREATE VIEW for every view; none ends in a semicolon."""
    folder = root.rstrip("/")
    registered = [
        f"CREATE TABLE IF NOT EXISTS {quoted_name(table.name)} USING delta LOCATION {quoted_text(f'{folder}/{table.name}')}" for table in tables(catalog)
    ]
    return registered + [view_sql(view, _sources(catalog)) for view in VIEWS]


def ddl(catalog: Catalog, root: str) -> str:
    """A script for `spark-sql -f`; names are unqualified, so `USE <schema>` decides where the entries go."""
    return "".join(f"{statement};\n\n" for statement in statements(catalog, root))


def quoted_name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def quoted_text(text: str) -> str:
    """A SQL string literal; Spark reads backslashes in literals as escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _sources(catalog: Catalog) -> tuple[str, ...]:
    return tuple(source.name for source in catalog.sources)


def run(context: Context) -> dict[str, int]:
    """Returns how many tables and views SQL now sees. Raises `BadInput` before `u2qt init`."""
    wanted = tables(context.catalog)
    for table in wanted:
        context.lake.require(table.name)
        _release(context, table.name)
    context.lake.register(wanted)
    for view in VIEWS:
        context.spark.sql(view_sql(view, _sources(context.catalog)))
    return {"tables": len(wanted), "views": len(VIEWS)}


def _release(context: Context, table: str) -> None:
    """Drops an entry of this session that points at another lakehouse; in a lasting metastore it is refused instead."""
    if not context.spark.catalog.tableExists(table):
        return
    state = context.spark._jsparkSession.sessionState()
    entry = state.catalog().getTableMetadata(state.sqlParser().parseTableIdentifier(table))
    location = str(entry.location().toString())
    if _same_place(location, context.lake.path(table)):
        return
    if context.spark.conf.get("spark.sql.catalogImplementation") != IN_MEMORY:
        schema = context.spark.catalog.currentDatabase()
        raise BadInput(
            f"table {schema}.{table}: the metastore has it at {location}, expected {context.lake.path(table)}; "
            f"drop that entry, or choose another schema for this lakehouse"
        )
    context.spark.sql(f"DROP TABLE {quoted_name(table)}")  # external: only the entry goes


def _same_place(location: str, path: str) -> bool:
    here, there = (value if "://" in value else str(Path(unquote(urlsplit(value).path))) for value in (location, path))
    return here.rstrip("/") == there.rstrip("/")
