"""The lakehouse that kills are aimed at, and what has to be true of it after every one.

Two sources and 60 users, so that a day takes seconds. A *task* is work on a day: `day` runs one that was never run, `repair`
works rows into a published day that came late, which supersedes some. Both start from a copy of a prepared folder. Tables are
read without Spark, by deltalake: another reader than the writer.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from urllib.parse import unquote, urlsplit

import deltalake
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

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
from schemas.catalog_files import load_catalog
from schemas.keys import Days
from u2qt_model import presets

SOURCES = ("bill", "profile")
FIRST, SECOND, THIRD = (date(2024, 1, day) for day in (1, 2, 3))
KNOWN_LATER = datetime(2024, 2, 1, tzinfo=UTC)  # a repair's cutoff
USERS = 60
TABLES = ("source_bill", "source_profile", "quarantine_bill", "quarantine_profile", "deliveries", "user_features", "staged_user_tokens", "user_tokens")
RUN_COLUMNS = ("run_id", "superseded_by_run")  # which run wrote a row is all that a repetition may change

Digests = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One of an undisturbed task."""

    table: str
    stage: int  # which stage of the day made it, counted by the ledger's rows
    seconds: float  # since the commit before it, or since the task began


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Where a task's folder is copied from, and every table before and after the task."""

    starts: tuple[Path, ...]  # the lakehouse before each stage of the task, all stages before it done
    raw: Path
    catalog: Path
    days: Days
    cutoff: datetime | None
    before: Digests
    after: Digests
    commits: tuple[Commit, ...]

    @property
    def template(self) -> Path:
        """Before the task."""
        return self.starts[0]


def context_of(spark: SparkSession, root: Path, raw: Path, catalog: Path, run_id: str) -> Context:
    return Context(spark=spark, lake=Lakehouse(spark, str(root)), catalog=load_catalog(catalog), input_root=str(raw), run_id=run_id)


def stages(context: Context, days: Days, cutoff: datetime | None) -> tuple[Callable[[], object], ...]:
    """A day, or its repair, stage by stage, as `u2qt run-day` and `u2qt backfill` have it."""
    first = (lambda: validate_sources.run(context, days), lambda: build_user_features.run(context, days, cutoff))
    return (*first, *(partial(stage.run, context, days) for stage in (encode_users, audit_tokens, publish_tokens)))


def work(context: Context, days: Days, cutoff: datetime | None, first: int = 0) -> None:
    """All stages from the one numbered `first` on."""
    for stage in stages(context, days, cutoff)[first:]:
        stage()


def prepare(spark: SparkSession, out: Path) -> dict[str, Prepared]:
    """Simulates, trains, publishes two days, and does both tasks undisturbed to know how they end."""
    raw, catalog = out / "sim" / "raw", _catalog(out / "catalog")
    simulate_sources.run(spark, out=out / "sim", users=USERS, days=3, seed=3, start=FIRST, dirt=0.05)
    context = context_of(spark, out / "two-days", raw, catalog, "prepare")
    init_lakehouse.run(context)
    both = Days(FIRST, SECOND)
    validate_sources.run(context, both)
    build_user_features.run(context, both)
    train_tokenizer.run(context, both, "v1", presets.tiny())
    promote_tokenizer.run(context, "v1", "the first")
    for stage in (encode_users, audit_tokens, publish_tokens):
        stage.run(context, both)
    shutil.copytree(out / "two-days", out / "three-days")
    work(context_of(spark, out / "three-days", raw, catalog, "third"), Days(THIRD, THIRD), None)
    tasks = {"day": ("two-days", THIRD, None), "repair": ("three-days", SECOND, KNOWN_LATER)}
    return {name: _prepared(spark, out, raw, catalog, template, Days(ds, ds), cutoff) for name, (template, ds, cutoff) in tasks.items()}


def _prepared(spark: SparkSession, out: Path, raw: Path, catalog: Path, template: str, days: Days, cutoff: datetime | None) -> Prepared:
    undisturbed = out / "undisturbed"
    shutil.copytree(out / template, undisturbed)
    known, begun = set(_log_entries(undisturbed)), time.time()
    starts: list[Path] = []
    for number, stage in enumerate(stages(context_of(spark, undisturbed, raw, catalog, "undisturbed"), days, cutoff)):
        starts.append(out / f"{template}-{number}")
        shutil.copytree(undisturbed, starts[-1])
        stage()
    commits = _commits([path for path in _log_entries(undisturbed) if path not in known], begun)
    before, after = digests(starts[0]), digests(undisturbed)
    shutil.rmtree(undisturbed)
    if before["user_tokens"] == after["user_tokens"]:
        raise RuntimeError(f"{template}: the task changes no published row, so a kill could do no harm")
    if cutoff is not None and before["user_tokens_superseded"] == after["user_tokens_superseded"]:
        raise RuntimeError(f"{template}: the repair supersedes no row, so there is no gap to aim at")
    return Prepared(starts=tuple(starts), raw=raw, catalog=catalog, days=days, cutoff=cutoff, before=before, after=after, commits=commits)


def _log_entries(root: Path) -> list[Path]:
    return list(root.glob("*/_delta_log/*.json"))


def commit_count(root: Path) -> int:
    """Of all tables, so that progress can be seen from outside."""
    return len(_log_entries(root))


def _commits(entries: list[Path], begun: float) -> tuple[Commit, ...]:
    """In the order in which they were made."""
    commits, stage = [], 0
    for path in sorted(entries, key=lambda path: path.stat().st_mtime):
        moment, table = path.stat().st_mtime, path.parent.parent.name
        commits.append(Commit(table=table, stage=stage, seconds=max(0.0, moment - begun)))
        begun, stage = moment, stage + (table == "runs")
    return tuple(commits)


def _catalog(folder: Path) -> Path:
    """The packaged catalog with two of its sources."""
    packaged = resources.files("schemas")
    for parts in (("sources",), ("expectations", "sources")):
        folder.joinpath(*parts).mkdir(parents=True)
    header = packaged.joinpath("catalog.yaml").read_text(encoding="utf-8").splitlines()
    lines = [line for line in header if not line.startswith("sources:")]
    (folder / "catalog.yaml").write_text("\n".join([*lines, f"sources: [{', '.join(SOURCES)}]"]) + "\n", encoding="utf-8")
    for source in SOURCES:
        (folder / "sources" / f"{source}.yaml").write_text(packaged.joinpath("sources", f"{source}.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        suite = resources.files("expectations").joinpath("sources", f"{source}.json").read_text(encoding="utf-8")
        (folder / "expectations" / "sources" / f"{source}.json").write_text(suite, encoding="utf-8")
    return folder


def digests(root: Path) -> dict[str, str]:
    """Of the rows of every table, in no order, less which run wrote them; of superseded rows those whose run published."""
    found = {table: digest(root / table) for table in TABLES}
    published = {row["run_id"] for row in rows_of(root / "runs") if row["stage"] == "publish_tokens" and row["status"] == "done"}
    superseded = [row for row in rows_of(root / "user_tokens_superseded") if row["superseded_by_run"] in published]
    return found | {"user_tokens_superseded": _digest(superseded)}


def digest(table: Path) -> str:
    return _digest(rows_of(table))


def rows_of(table: Path) -> list[dict[str, object]]:
    """A table of at most some hundred rows, at its newest version; its partition columns as text."""
    return [row for file in files_of(table) for row in _rows(file)]


def files_of(table: Path) -> list[Path]:
    return [Path(unquote(urlsplit(uri).path)) for uri in deltalake.DeltaTable(str(table)).file_uris()]


def _rows(file: Path) -> list[dict[str, object]]:
    partition = dict(part.split("=", 1) for part in file.parts if "=" in part)
    return [row | partition for row in pq.read_table(file, partitioning=None).to_pylist()]


def _digest(rows: list[dict[str, object]]) -> str:
    texts = sorted(repr(sorted((key, value) for key, value in row.items() if key not in RUN_COLUMNS)) for row in rows)
    joined = "\n".join(texts).encode()
    return f"{len(texts)}:{hashlib.sha256(joined).hexdigest()[:16]}"


def whole_days(root: Path) -> dict[str, str]:
    """ds -> digest of the published rows: what a reader sees of user_tokens in one look."""
    by_day: dict[str, list[dict[str, object]]] = {}
    for row in rows_of(root / "user_tokens"):
        by_day.setdefault(str(row["ds"]), []).append(row)
    return {ds: _digest(rows) for ds, rows in by_day.items()}


def unreadable_files(root: Path) -> list[str]:
    """Active files that are not there."""
    return [str(file) for log in root.glob("*/_delta_log") for file in files_of(log.parent) if not file.exists()]


def strays(root: Path) -> list[str]:
    """Files that no version of a table knows, and that nothing but a kill can have left."""
    left = [path for log in root.glob("*/_delta_log") for path in _unknown(log)]
    own = [path for path in (root / "_u2qt").rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(str(path.relative_to(root)) for path in (*left, *own))


def _unknown(log: Path) -> list[Path]:
    table = log.parent
    text = "".join(path.read_text(encoding="utf-8") for path in log.glob("*.json"))
    written = [path for pattern in ("*.parquet", ".*.parquet.crc") for path in table.rglob(pattern) if log not in path.parents]
    data = [path for path in written if path.name.removeprefix(".").removesuffix(".crc") not in text]
    temporary = [path for path in table.rglob("*") if path.is_dir() and path.name.startswith("_temporary")]
    return [*data, *temporary, *(path for path in log.iterdir() if ".tmp" in path.suffixes)]
