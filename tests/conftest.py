"""Fixtures: one Spark session for the whole run, small lakehouses built by the real stages."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import init_lakehouse
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.session import build_session
from schemas.catalog import Catalog
from schemas.catalog_files import load_catalog

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = build_session("local[2]", {"spark.sql.shuffle.partitions": "2", "spark.driver.memory": "3g"})
    yield session
    session.stop()


@pytest.fixture(scope="session")
def default_catalog() -> Catalog:
    return load_catalog()


@pytest.fixture
def context(spark: SparkSession, default_catalog: Catalog, tmp_path: Path) -> Context:
    """An empty, not yet initialised lakehouse of the default catalog in `tmp_path`."""
    lake = Lakehouse(spark, str(tmp_path / "lake"))
    return Context(spark=spark, lake=lake, catalog=default_catalog, input_root=str(tmp_path / "raw"), run_id="test-run")


@pytest.fixture(scope="session")
def empty_lake(spark: SparkSession, default_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised lakehouse to copy: Delta's paths are relative, so a copied folder is a lakehouse of its own."""
    root = tmp_path_factory.mktemp("template") / "lake"
    context = Context(spark=spark, lake=Lakehouse(spark, str(root)), catalog=default_catalog, input_root="", run_id="init")
    init_lakehouse.run(context)
    return root


@pytest.fixture
def ready(context: Context, empty_lake: Path) -> Context:
    """An initialised lakehouse without rows."""
    shutil.copytree(empty_lake, context.lake.root)
    return context
