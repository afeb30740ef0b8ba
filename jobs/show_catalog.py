"""Prints catalogs: what `u2qt catalog check` and `show` say."""

from pathlib import Path

from rich.table import Table

from jobs import quality
from jobs.errors import BadInput
from schemas.catalog import Catalog, Column, Source
from schemas.catalog_files import load_catalog
from schemas.source_events import source_events


def checked(folder: Path | None) -> Catalog:
    """The catalog, with its suites checked too. Raises `CatalogError` or `BadInput` with what is wrong."""
    catalog = load_catalog(folder)
    for source in catalog.sources:
        file = f"expectations/sources/{source.name}.json"
        unknown = quality.load_suite(catalog.suites[source.name], file).columns - set(source_events(source).columns)
        if unknown:
            raise BadInput(f"{file}: found column {', '.join(sorted(unknown))}, expected those of table source_{source.name}")
    return catalog


def render(catalog: Catalog) -> list[Table]:
    """One overview table, then one table per source."""
    overview = Table(
        title=f"catalog {catalog.name} ({catalog.location}): {catalog.time_zone}, delivery lag {catalog.header.delivery_lag}", title_justify="left"
    )
    for name in ("source", "kind", "input", "dedup key", "min rows/day", "description"):
        overview.add_column(name)
    for s in catalog.sources:
        overview.add_row(s.name, s.kind, f"{s.input.format} {s.input.path}", ", ".join(s.dedup_key), str(s.min_rows_per_day), s.description)
    return [overview, *(_columns(source) for source in catalog.sources)]


def _columns(source: Source) -> Table:
    table = Table(title=source.name + (f": {source.template}" if source.template else ""), title_justify="left")
    for name in ("column", "from", "type", "role", "unit", "null", "accepted", "comment"):
        table.add_column(name)
    for column in source.columns:
        null = "yes" if column.nullable else "no"
        table.add_row(column.name, column.source_column, column.type, column.role, column.unit or "", null, _accepted(column), column.comment)
    return table


def _accepted(column: Column) -> str:
    if column.categories is not None:
        return ", ".join(column.categories)
    if column.min is not None or column.max is not None:
        low, high = ("" if bound is None else f"{bound:g}" for bound in (column.min, column.max))
        return f"{low} to {high}"
    return f"at most {column.max_chars} characters" if column.type == "string" else ""
