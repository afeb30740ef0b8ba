"""Policies of the tree: what a stage file looks like, what no file may contain, what every table and source must have."""

import ast
import importlib
import importlib.metadata
import inspect
import sys
from pathlib import Path

import pytest

import jobs
import u2qt_model
from schemas.catalog import Catalog
from schemas.lakehouse import tables

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("jobs", "schemas", "u2qt_model")
SOURCES = sorted(file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py"))
BANNED_CALLS = {"eval", "exec", "print"}
BANNED_MODULES = {"pickle", "dill", "joblib", "marshal", "shelve"}
PRINTING = {"cli.py", "make_dist.py"}


@pytest.mark.parametrize("stage", jobs.DAILY_STAGES)
def test_a_stage_file_says_what_it_reads_writes_and_repeats(stage: str) -> None:
    """The docstring names reads, writes, key and what makes a re-run safe; `run` takes the context and the days."""
    module = importlib.import_module(f"jobs.{stage}")
    said = module.__doc__ or ""
    assert said.startswith(f"{stage}: ")
    for word in ("Reads ", "rites ", "Key: ", "Idempotent"):
        assert word in said, word
    assert list(inspect.signature(module.run).parameters)[:2] == ["context", "days"]


def test_the_order_of_the_stages_stands_in_the_docstring() -> None:
    """Prose and constant agree; `tests/airflow_dags` compares the DAG with the constant."""
    first = (jobs.__doc__ or "").splitlines()[0]
    assert first == f"The day's stages, in order: {', '.join(jobs.DAILY_STAGES)}."


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_no_module_unpickles_evaluates_or_prints(file: Path) -> None:
    """Also no bare except, no `except: pass`, and a docstring on top."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", None) or "").split(".")[0]}
            assert not names & BANNED_MODULES
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and file.name not in PRINTING:
            assert node.func.id not in BANNED_CALLS, node.lineno
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, node.lineno
            assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), node.lineno


def test_no_job_shadows_another_module() -> None:
    """`spark-submit jobs/x.py` puts that folder first on the path."""
    ours = {file.stem for file in (REPOSITORY / "jobs").glob("*.py")} - {"__init__"}
    theirs = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions()) - {"jobs", "schemas", "u2qt_model"}
    assert not ours & theirs
    assert not {name for name in ours if name in ("utils", "common", "helpers", "base")}


def test_every_table_and_column_has_a_comment(default_catalog: Catalog) -> None:
    """Analysts see them in DESCRIBE; keys come first in the token table."""
    for table in tables(default_catalog):
        assert table.comment, table.name
        assert all(field.comment for field in table.fields), table.name
    tokens = next(table for table in tables(default_catalog) if table.name == "user_tokens")
    assert list(tokens.columns)[:3] == ["user_id", "ds", "tokenizer_version"]


def test_every_source_has_a_suite_of_its_name() -> None:
    """In the default catalog and in the examples."""
    pairs = ((REPOSITORY / "schemas" / "sources", REPOSITORY / "expectations" / "sources"),)
    example = REPOSITORY / "examples" / "stackexchange"
    for declared, expected in (*pairs, (example / "sources", example / "expectations" / "sources")):
        stems = {file.stem for file in declared.glob("*.yaml")}
        assert stems == {file.stem for file in expected.glob("*.json")}
        assert len(stems) == 6


def test_the_model_s_public_surface_is_small() -> None:
    """A name more or less is a decision."""
    assert sorted(u2qt_model.__all__) == sorted(
        [
            *("EventSlices", "FeatureBatch", "FeatureLayout", "ModelError", "ProfileSlices", "SourceLayout"),
            *("Token", "Tokenizer", "TokenizerConfig", "Vocabulary", "load", "save"),
        ]
    )


def test_the_readme_names_every_folder() -> None:
    """And its two commands are targets of the Makefile."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for folder in ("jobs", "u2qt_model", "schemas", "expectations", "airflow_dags", "examples", "benchmarks", "docs", "tests"):
        assert f"`{folder}/`" in readme
        assert (REPOSITORY / folder).is_dir()
    for target in ("demo", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile
