"""Airflow's environment as these tests use it: its processes, and the runs with a command that only writes down its arguments."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from benchmarks import kill_lake
from benchmarks.kill_lake import Prepared
from jobs.context import Context

REPOSITORY = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).with_name("inside_airflow.py")
FAKE = Path(__file__).with_name("fake_u2qt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Airflow:
    """Airflow's environment and the variables that its processes get."""

    bin: Path
    env: dict[str, str]

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """One command of that environment. Its output is returned whatever its end."""
        program = [str(self.bin / command[0]), *command[1:]]
        return subprocess.run(program, env=self.env | env, capture_output=True, text=True, timeout=1800, check=False)

    def ask(self, verb: str, folder: Path, cases: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON that `inside_airflow.py` answers."""
        answer, asked = folder / "answer.json", folder / "cases.json"
        asked.write_text(json.dumps(cases or {}))
        ended = self.run("python", str(INSIDE), verb, str(answer), str(asked))
        assert ended.returncode == 0, said(ended)
        return json.loads(answer.read_text())


def said(ended: subprocess.CompletedProcess[str]) -> str:
    """The end of what a process printed, for messages."""
    return (ended.stdout + ended.stderr)[-8000:]


def airflow_bin(environment: Path) -> Path:
    """The programs of Airflow's environment; without it the tests fail, for a skipped check is no check."""
    if not (environment / ".installed").is_file():
        pytest.fail(f"{environment}: Airflow's environment is missing or incomplete; run `make airflow-env`", pytrace=False)
    return environment / "bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeRun:
    """What a DAG did with a command that only writes down its arguments."""

    calls: list[str]  # "[validate][--ds][2024-01-01]"
    refused: str | None  # why there was no run
    state: str = ""
    tasks: dict[str, dict[str, Any]]  # task id -> state, tries
    mapped: list[str]  # those of one mapped task, by index: the order in which the scheduler starts them, but not `airflow dags test`


def case(dag: str, logical_date: str | None, conf: dict[str, Any], *, fail: str = "none 0 0") -> dict[str, Any]:
    """`fail`: verb, exit code, how many times."""
    verb, code, times = fail.split()
    env = {"FAKE_VERB": verb, "FAKE_CODE": code, "FAKE_TIMES": times}
    return {"dag": dag, "logical_date": f"{logical_date}T00:00:00+00:00" if logical_date else None, "conf": conf, "env": env}


def backfill(conf: dict[str, Any], plan: str, *, fail: str = "none 0 0") -> dict[str, Any]:
    asked = case("u2qt_backfill", None, {"from": "2024-01-01", "to": "2024-01-05"} | conf, fail=fail)
    return asked | {"env": asked["env"] | {"FAKE_PLAN": plan}}


TRAINING = {"from": "2024-01-01", "to": "2024-01-02", "tokenizer_version": "v2", "size": "tiny"}
CASES = {
    "plain": case("u2qt_daily", "2024-01-04", {}),
    "asked for a day": case("u2qt_daily", "2024-01-05", {"ds": "2023-05-06"}),
    "without an interval": case("u2qt_daily", None, {}),
    "a day without an interval": case("u2qt_daily", None, {"ds": "2023-05-06"}),
    "shell as ds": case("u2qt_daily", "2024-01-06", {"ds": "2024-01-01; touch x"}),
    "two lines as ds": case("u2qt_daily", "2024-01-07", {"ds": "2024-01-01\n"}),
    "option as ds": case("u2qt_daily", "2024-01-08", {"ds": "--help"}),
    "gate of validate": case("u2qt_daily", "2024-01-09", {}, fail="validate 10 9"),
    "gate of audit": case("u2qt_daily", "2024-01-10", {}, fail="audit 10 9"),
    "bad input": case("u2qt_daily", "2024-01-11", {}, fail="build 20 9"),
    "a bug": case("u2qt_daily", "2024-01-12", {}, fail="build 1 9"),
    "Airflow's code for skipping": case("u2qt_daily", "2024-01-13", {}, fail="validate 99 9"),
    "infrastructure once": case("u2qt_daily", "2024-01-14", {}, fail="encode 30 1"),
    "infrastructure for ever": case("u2qt_daily", "2024-01-15", {}, fail="encode 30 9"),
    "infrastructure in the audit": case("u2qt_daily", "2024-01-16", {}, fail="audit 30 9"),
    "train": case("u2qt_train", None, TRAINING),
    "train and promote": case("u2qt_train", None, TRAINING | {"promote": True}),
    "failed training": case("u2qt_train", None, TRAINING | {"promote": True}, fail="train 20 9"),
    "shell as version": case("u2qt_train", None, TRAINING | {"tokenizer_version": "v2$(touch x)"}),
    "backfill": backfill({}, '["2024-01-03", "2024-01-01"]'),
    "backfill of a version": backfill({"tokenizer_version": "v2", "cutoff": "2024-02-01T00:00:00+08:00"}, '["2024-01-01"]'),
    "backfill in chunks": backfill({"days_at_once": 2}, '["2024-01-05", "2024-01-01", "2024-01-02", "2024-01-03"]'),
    "no day at once": backfill({"days_at_once": 0}, "[]"),
    "nothing due": backfill({}, "[]"),
    "a gate in the backfill": backfill({}, '["2024-01-01", "2024-01-02"]', fail="backfill 10 1"),
    "infrastructure in the backfill": backfill({}, '["2024-01-01"]', fail="backfill 30 1"),
    "no plan": backfill({}, "Spark has the last word"),
    "shell as cutoff": backfill({"cutoff": "2024-02-01; touch x"}, "[]"),
    "training without days": case("u2qt_train", None, {"tokenizer_version": "v2"}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RealLake:
    """A lakehouse for the real command: two published days, the second with late rows, and the input of a third."""

    root: Path
    task: Prepared
    command: Path  # u2qt with settings for tiny queries

    @property
    def settings(self) -> dict[str, str]:
        """Of the workers' environment."""
        return {"U2QT_BIN": str(self.command), "U2QT_ROOT": str(self.root), "U2QT_INPUT": str(self.task.raw), "U2QT_CATALOG": str(self.task.catalog)}

    def context(self, spark: SparkSession) -> Context:
        return kill_lake.context_of(spark, self.root, self.task.raw, self.task.catalog, "looking")
