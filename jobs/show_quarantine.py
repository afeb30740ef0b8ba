"""What validation refused on a day of delivery: per delivery its outcomes, and how often each reason was given."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from pyspark.sql import Row
from pyspark.sql import functions as F
from rich.table import Table

from jobs.context import Context
from schemas.quarantine import quarantine_table_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """One source's deliveries of the day, reasons with counts, and a few raw rows where asked for."""

    source: str
    deliveries: tuple[Row, ...]
    reasons: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]


def run(context: Context, delivered_ds: date, source: str | None, rows: int) -> tuple[Quarantined, ...]:
    """Raises CatalogError for a source that the catalog hasn't."""
    names = [context.catalog.source(source).name] if source else [s.name for s in context.catalog.sources]
    return tuple(_one(context, delivered_ds, name, rows) for name in names)


def _one(context: Context, delivered_ds: date, source: str, rows: int) -> Quarantined:
    on_day = F.col("delivered_ds") == F.lit(delivered_ds)
    deliveries = context.lake.read("deliveries").where(on_day & (F.col("source") == source)).orderBy("delivery_id").collect()
    refused = context.lake.read(quarantine_table_name(source)).where(on_day)
    counts = refused.select(F.explode("reasons").alias("reason")).groupBy("reason").count().orderBy(F.desc("count"), "reason").collect()
    sample = refused.orderBy(F.xxhash64(F.to_json("raw"))).limit(rows).collect() if rows else []
    reasons = tuple((row["reason"], row["count"]) for row in counts)
    return Quarantined(source=source, deliveries=tuple(deliveries), reasons=reasons, rows=tuple(sample))


def render(found: tuple[Quarantined, ...]) -> Iterator[Table]:
    """Deliveries of all sources first, then reasons, then rows."""
    deliveries = _table("deliveries", "source", "delivery", "rows in", "clean", "quarantined", "duplicates", "gate")
    reasons = _table("reasons", "source", "reason", "rows")
    for one in found:
        for d in one.deliveries:
            deliveries.add_row(one.source, _shown(d.delivery_id), *(f"{n:,}" for n in (d.rows_in, d.clean, d.quarantined, d.duplicates)), d.gate)
        for reason, count in one.reasons:
            reasons.add_row(one.source, reason, f"{count:,}")
    yield deliveries
    yield reasons
    for one in found:
        if one.rows:
            rows = _table(f"{one.source}: raw rows", "delivery", "reasons", "raw")
            for row in one.rows:
                rows.add_row(_shown(row.delivery_id), ", ".join(row.reasons), ascii(row.raw)[:400])
            yield rows


def _shown(value: str) -> str:
    """Whole, as `quarantine replay` wants it; escaped where it would steer a terminal."""
    return value if value.isprintable() else ascii(value)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
