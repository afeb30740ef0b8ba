"""Fixtures: one Spark session for the whole run, small lakehouses built by the real stages."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings
from pydantic import TypeAdapter
from pyspark.sql import SparkSession
from xdist.scheduler import LoadScopeScheduling

from benchmarks.kill_lake import Prepared, prepare
from jobs import (
    audit_tokens,
    build_user_features,
    encode_users,
    init_lakehouse,
    promote_tokenizer,
    publish_tokens,
    simulate_sources,
    train_tokenizer,
    validate_sources,
)
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.session import build_session
from schemas.catalog import Catalog
from schemas.catalog_files import load_catalog
from schemas.keys import Days
from u2qt_model import presets

REPOSITORY = Path(__file__).resolve().parents[1]
PUBLISHED = Days(date(2024, 1, 1), date(2024, 1, 3))  # the days of the fixtures below
TASKS = TypeAdapter(dict[str, Prepared])
FEW_SOURCES = ("bill", "search", "profile")
TWO_SOURCES = ("bill", "profile")


settings.register_profile("any-machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any-machine")

# Ten times Java's own thresholds: its second compiler takes a quarter of a session's processor time with them, a tenth with these.
SLOW_TO_OPTIMISE = " ".join(
    f"-XX:Tier4{name}={count}"
    for name, count in {"InvocationThreshold": 50_000, "MinInvocationThreshold": 6_000, "CompileThreshold": 150_000, "BackEdgeThreshold": 400_000}.items()
)
# Tests run hundreds of tiny queries: compiling each of them would be most of the time.
TINY_QUERIES = {
    "spark.driver.memory": "3g",
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC " + SLOW_TO_OPTIMISE,
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.databricks.delta.delta.log.cacheSize": "100",  # of 10,000: the logs of copied lakes, 2 MB each, would fill the heap
}


LONG = ("test_two_at_once.py", "test_forget_users.py")
LONG_WANTED = "U2QT_LONG_TESTS"  # a variable of the environment
# Files of one group share a costly fixture, and with it a process. Long ones come first, so that no process is left alone with one at the end.
GROUPS = {
    "kills": ("test_kill_day.py", "test_full_disk.py", "test_small_memory.py"),
    "airflow": ("test_backfill_run.py", "test_daily_run.py", "test_train_run.py", "test_dags.py"),
}
LONG_FIRST = (
    "kills",
    "test_rerun_and_late_data.py",  # not airflow's, which would wait for the lake that the kills make first
    "airflow",
    "test_forget_users.py",
    "test_two_at_once.py",
    "test_plan_and_backfill.py",
    "test_daily_stages.py",
    "test_standalone.py",
    "test_maintain_lakehouse.py",
    "test_build_user_features.py",
    "test_upstream_changes.py",
    "test_tokenizer_life.py",
    "test_drift_gates.py",
    "test_security.py",
)


GROUP_OF = {file: group for group, files in GROUPS.items() for file in files}
PLACE_OF = {group: place for place, group in enumerate(LONG_FIRST)}


def group_of(test: str) -> str:
    """Of a node id."""
    file = test.split("::", 1)[0].rsplit("/", 1)[-1]
    return GROUP_OF.get(file, file)


class GroupScheduling(LoadScopeScheduling):
    """A group to a process. xdist's own `loadgroup` renames node ids, which pytest 9.2 no longer lets it."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first. Tests of many minutes are skipped with a word where nobody asks for them."""
    items.sort(key=lambda item: PLACE_OF.get(group_of(item.nodeid), len(PLACE_OF)))
    if not os.environ.get(LONG_WANTED):
        for item in items:
            if item.path.name in LONG:
                item.add_marker(pytest.mark.skip(reason=f"many minutes long: run it with {LONG_WANTED}=1"))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = build_session("local[2]", TINY_QUERIES)
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
    init_lakehouse.run(Context(spark=spark, lake=Lakehouse(spark, str(root)), catalog=default_catalog, input_root="", run_id="init"))
    return root


@pytest.fixture
def ready(context: Context, empty_lake: Path) -> Context:
    """An initialised lakehouse without rows."""
    shutil.copytree(empty_lake, context.lake.root)
    return context


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process of this run to ask for makes, for the others to read. Half a folder, of a `make` that failed, is made anew."""
    base = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder, made = base / f"once-{name}", base / f"once-{name}.made"
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def simulated(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users, 3 days, a tenth of the rows dirty: raw/, labels/ and truth/."""

    def make(out: Path) -> None:
        simulate_sources.run(spark, out=out, users=60, days=len(PUBLISHED), seed=1, start=PUBLISHED.first, dirt=0.1)

    return made_once(tmp_path_factory, "simulated", make)


@pytest.fixture(scope="session")
def published(spark: SparkSession, default_catalog: Catalog, simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Those days through every stage: tokenizer v1, trained on the first two, promoted. Tests must not write into it."""
    return published_lake(spark, default_catalog, simulated, tmp_path_factory, "published")


@pytest.fixture(scope="session")
def published_few(spark: SparkSession, default_catalog: Catalog, simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """`published` with three of its sources, a day of which takes half as long: for tests that work days again and again."""
    return published_lake(spark, only(default_catalog, FEW_SOURCES), simulated, tmp_path_factory, "published-few")


@pytest.fixture(scope="session")
def published_two(spark: SparkSession, default_catalog: Catalog, simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """With two of them, one of events and the profile, for tests that go through every stage many times."""
    return published_lake(spark, only(default_catalog, TWO_SOURCES), simulated, tmp_path_factory, "published-two")


def only(catalog: Catalog, names: Sequence[str]) -> Catalog:
    return catalog.model_copy(update={"sources": tuple(source for source in catalog.sources if source.name in names)})


def published_lake(spark: SparkSession, catalog: Catalog, simulated: Path, factory: pytest.TempPathFactory, name: str) -> Context:
    """This process's own copy of a lake made once; its checkpoint is the first one's, which nothing changes."""

    def context(root: Path) -> Context:
        return Context(spark=spark, lake=Lakehouse(spark, str(root)), catalog=catalog, input_root=str(simulated / "raw"), run_id="first")

    def make(root: Path) -> None:
        init_lakehouse.run(context(root))
        through_every_stage(context(root))

    root = factory.mktemp(name) / "lake"
    shutil.copytree(made_once(factory, name, make), root)
    return context(root)


def through_every_stage(context: Context) -> Context:
    validate_sources.run(context, PUBLISHED)
    build_user_features.run(context, PUBLISHED)
    train_tokenizer.run(context, Days(PUBLISHED.first, date(2024, 1, 2)), "v1", presets.tiny())
    promote_tokenizer.run(context, "v1", "the first")
    for stage in (encode_users, audit_tokens, publish_tokens):
        stage.run(context, PUBLISHED)
    return context


@pytest.fixture
def writable(published: Context, tmp_path: Path) -> Context:
    """A copy of `published` that a test may change; its checkpoint is the original's, which nothing changes."""
    root = tmp_path / "writable"
    shutil.copytree(published.lake.root, root)
    return replace(published, lake=Lakehouse(published.spark, str(root)), run_id="second")


@pytest.fixture(scope="session")
def tasks(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    """A tiny lakehouse of two sources before and after a `day` and a `repair`, for tests with processes of their own. Copy it."""

    def make(out: Path) -> None:
        out.mkdir()
        (out / "tasks.json").write_bytes(TASKS.dump_json(prepare(spark, out)))

    return TASKS.validate_json((made_once(tmp_path_factory, "tasks", make) / "tasks.json").read_bytes())
