"""Fixtures: Airflow in its own environment, driven by subprocess, with one database for all of these tests."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow_processes import CASES, FAKE, REPOSITORY, Airflow, FakeRun, RealLake, airflow_bin, said

from benchmarks.kill_lake import Prepared
from benchmarks.kill_victim import FAST_START


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """A migrated database of its own (about 15 s), no examples, the DAGs of this repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "U2QT", "PYTHON", "PYSPARK", "SPARK", "VIRTUAL_ENV"))}
    home = tmp_path_factory.mktemp("airflow")
    made = Airflow(
        bin=airflow_bin(REPOSITORY / ".venv-airflow"),
        env=kept
        | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "airflow_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    migrated = made.run("airflow", "db", "migrate")
    assert migrated.returncode == 0, said(migrated)
    return made


@pytest.fixture(scope="session")
def described(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow parsed: import errors, and per DAG its settings and tasks."""
    return airflow.ask("describe", tmp_path_factory.mktemp("described"))


@pytest.fixture(scope="session")
def runs(airflow: Airflow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FakeRun]:
    """Every case of CASES, run in one process of Airflow."""
    folder = tmp_path_factory.mktemp("runs")
    logs = {name: folder / f"{number}.log" for number, name in enumerate(CASES)}
    common = {"U2QT_BIN": str(FAKE), "U2QT_ROOT": "/lake", "U2QT_INPUT": "/raw"}
    asked = {name: case | {"env": case["env"] | common | {"FAKE_LOG": str(logs[name])}} for name, case in CASES.items()}
    answers = airflow.ask("run", folder, asked)
    calls = {name: log.read_text().splitlines() if log.exists() else [] for name, log in logs.items()}
    return {name: FakeRun(calls=calls[name], **({"tasks": {}, "mapped": []} | answer)) for name, answer in answers.items()}


@pytest.fixture
def lake(tasks: dict[str, Prepared], tmp_path: Path) -> RealLake:
    """With the real u2qt behind a script that adds Spark settings, as the daily DAG's `doc_md` says one may."""
    root, command = tmp_path / "lake", tmp_path / "u2qt_small"
    shutil.copytree(tasks["day"].template, root)
    settings = [word for name, value in FAST_START.items() for word in ("--conf", f"{name}={value}")]
    command.write_text(f'#!/bin/sh\nexec "{Path(sys.executable).with_name("u2qt")}" "$@" --master "local[2]" {shlex.join(settings)}\n')
    command.chmod(0o755)
    return RealLake(root=root, task=tasks["day"], command=command)
