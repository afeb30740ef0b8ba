"""What every stage needs to run: a session, the lakehouse, the catalog, where raw input lies, and the run's id."""

from dataclasses import dataclass

from pyspark.sql import SparkSession

from jobs.delta_tables import Lakehouse
from schemas.catalog import Catalog


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    spark: SparkSession
    lake: Lakehouse
    catalog: Catalog
    input_root: str  # folder or URI that relative input paths start from
    run_id: str
    forget_key: str | None = None  # file with the key of forgotten ids; needed once somebody was forgotten
