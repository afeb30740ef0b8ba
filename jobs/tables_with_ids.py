"""Which tables hold user ids, and where in them: what a removal has to look at. Every table of a lakehouse stands in one of two lists."""

from collections.abc import Iterator
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.forgotten_ids import plain, words
from jobs.raw_input import CORRUPT
from schemas.catalog import Catalog, Source
from schemas.lakehouse import tables
from schemas.quarantine import quarantine_table_name
from schemas.table import Table

DAY_COLUMNS = ("delivered_ds", "ds")  # a table with ids is partitioned by one of them or both
WITHOUT_IDS = frozenset({"deliveries", "tokenizers", "codebook_quality", "audits", "promotions", "code_crosswalk", "runs", "forgotten"})


@dataclass(frozen=True, kw_only=True, slots=True)
class WithIds:
    """A table with ids. Columns as texts in which the table is `t`, so that they serve a read and a merge."""

    name: str
    day_columns: tuple[str, ...]  # that it has; it is partitioned by the first
    candidates: Column  # ARRAY<STRING> of a row: what may be its user's id, in the form of `plain`
    identity: Column  # what a merge knows the row by again

    @property
    def day(self) -> str:
        return self.day_columns[0]

    def found(self, rows: DataFrame, ids: DataFrame) -> DataFrame:
        """user_id, identity and days of the rows of `ids`; a row may come once per id that it holds."""
        each = rows.alias("t").select(F.explode(self.candidates).alias("user_id"), self.identity.alias("identity"), *self.day_columns)
        return each.join(ids, on="user_id", how="left_semi")


def tables_with_ids(catalog: Catalog) -> Iterator[WithIds]:
    """Raises for a table of the lakehouse that stands in neither list: somebody has to decide about it."""
    refused = {quarantine_table_name(source.name): source for source in catalog.sources}
    for table in tables(catalog):
        if table.name in WITHOUT_IDS:
            continue
        if table.name in refused:
            yield _quarantine(table, refused[table.name])
        elif "user_id" in table.columns:
            user_id = plain(F.col("t.user_id").cast("string"))
            yield WithIds(name=table.name, day_columns=_days(table), candidates=F.array(user_id), identity=user_id)
        else:
            raise AssertionError(f"table {table.name}: neither known to hold ids nor known to hold none; decide in jobs/tables_with_ids.py")


def _days(table: Table) -> tuple[str, ...]:
    days = tuple(name for name in DAY_COLUMNS if name in table.partition_by)
    if not days:
        raise AssertionError(f"table {table.name}: has ids, expected it partitioned by one of {', '.join(DAY_COLUMNS)}")
    return days


def _quarantine(table: Table, source: Source) -> WithIds:
    """The id as it was delivered; where its column has none (an earlier declaration named another, or that row did), any value; in a torn line, any word."""
    raw, name = F.col("t.raw"), source.entity_key.raw_name
    values = F.when(plain(raw.getItem(name)).isNotNull(), F.array(raw.getItem(name))).otherwise(F.map_values(raw))
    candidates = F.array_distinct(F.array_compact(F.concat(F.transform(values, plain), words(raw.getItem(CORRUPT)))))
    return WithIds(name=table.name, day_columns=_days(table), candidates=candidates, identity=F.sha2(F.to_json(raw), 256))
