"""What the DAG files promise before anything runs, as real Airflow parses them."""

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
from airflow_processes import FAKE, REPOSITORY, airflow_bin
from typer.exceptions import TyperException

import jobs
from jobs.cli import app
from schemas.catalog import Catalog

VALUES = {
    "U2QT_DS": "2024-01-01",
    "U2QT_FROM": "2024-01-01",
    "U2QT_TO": "2024-01-02",
    "U2QT_VERSION": "v2",
    "U2QT_SIZE": "tiny",
    "U2QT_CUTOFF": "2024-02-01T00:00:00Z",
    "U2QT_DAYS": "31",
}
FILES = sorted((REPOSITORY / "airflow_dags").glob("*.py"))
Described = dict[str, Any]


def arguments(command: str) -> list[str]:
    """What a task's last line passes to u2qt, its variables replaced by values."""
    last = re.sub(r"\$\{\w+:\+([^}]*)\}", r"\1", command.strip().splitlines()[-1])  # options that are left out when they are empty
    program, *given = shlex.split(last.removeprefix("exec "))
    assert program == "${U2QT_BIN:-u2qt}", command
    return [VALUES[word[1:]] if word.startswith("$") else word for word in given]


def check_command(given: list[str]) -> str:
    """The verb, after the real command line has parsed its options and arguments. Raises `TyperException`, or `KeyError` for an unknown verb."""
    found, words, rest = typer.main.get_command(app), [], list(given)
    while hasattr(found, "commands"):
        words.append(rest.pop(0))
        found = found.commands[words[-1]]
    found.make_context(" ".join(words), rest)
    return " ".join(words)


def bash_tasks(described: Described) -> list[dict[str, Any]]:
    return [task for dag in described["dags"].values() for task in dag["tasks"] if task["command"]]


def test_every_dag_file_parses(described: Described) -> None:
    """DagBag has no import error, and a DAG of the name of every file."""
    assert described["import_errors"] == {}
    assert sorted(described["dags"]) == [path.stem for path in FILES] == ["u2qt_backfill", "u2qt_daily", "u2qt_train"]


def test_without_airflows_environment_the_tests_fail_with_the_remedy(tmp_path: Path) -> None:
    """A check that did not run is a failure, also where an installation broke off."""
    (tmp_path / "bin").mkdir()
    with pytest.raises(pytest.fail.Exception, match="make airflow-env"):
        airflow_bin(tmp_path)


def test_daily_stages_run_in_the_order_of_the_jobs(described: Described) -> None:
    """One chain, as `jobs` lists and describes the stages; a task has its stage's name and runs its verb."""
    tasks = described["dags"]["u2qt_daily"]["tasks"]
    stages = [task["task_id"] for task in tasks]
    assert stages == list(jobs.DAILY_STAGES)
    assert [task["downstream"] for task in tasks] == [[stage] for stage in stages[1:]] + [[]]
    assert re.findall(r"\w+_\w+", (jobs.__doc__ or "").split("\n")[0]) == stages
    assert [arguments(task["command"])[0] for task in tasks] == [stage.split("_")[0] for stage in stages]


def test_every_command_exists_in_the_real_command_line(described: Described) -> None:
    """Verbs, options and arguments are parsed by the u2qt of this tree."""
    verbs = [check_command(arguments(task["command"])) for task in bash_tasks(described)]
    assert sorted(verbs) == ["audit", "backfill", "build", "encode", "plan", "publish", "tokenizer promote", "train", "validate"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["validated", "--ds", "2024-01-01"],
        ["validate", "--day", "2024-01-01"],
        ["train", "--from", "2024-01-01", "--tokenizer-version", "v2"],
        ["tokenizer", "promote"],
    ],
)
def test_a_command_that_does_not_exist_is_found(wrong: list[str]) -> None:
    """An unknown verb or option, a missing option, a missing argument."""
    with pytest.raises((TyperException, KeyError)):
        check_command(wrong)


def test_commands_of_the_triage_notes_exist(described: Described) -> None:
    """Whoever reads `doc_md` at night can type what it says."""
    for name, dag in described["dags"].items():
        commands = re.findall(r"`u2qt ([^`]+)`", dag["doc_md"])
        assert commands, name
        for command in commands:
            check_command(["2024-01-01" if word == "D" else word for word in shlex.split(command)])


def test_triage_notes_name_every_stage_and_exit_code(described: Described) -> None:
    """Symptom, cause and command for each way in which a task can end."""
    for dag in described["dags"].values():
        assert all(re.search(rf"\b{code}\b", dag["doc_md"]) for code in (10, 20, 30, 1))
        assert "| symptom | cause | command |" in dag["doc_md"]
    daily = described["dags"]["u2qt_daily"]
    assert all(f"`{task['task_id']}`" in daily["doc_md"] for task in daily["tasks"])


def test_the_gate_is_not_retried_and_nothing_is_skipped(described: Described) -> None:
    """The audit has one try; no exit code but 0 lets a run go on."""
    retries = {task["task_id"]: task["retries"] for task in bash_tasks(described)}
    assert retries["audit_tokens"] == retries["train_tokenizer"] == retries["promote_tokenizer"] == 0
    assert all(task["skips_on"] == [] for task in bash_tasks(described))


def test_a_day_starts_in_the_catalogs_zone_and_runs_after_its_cutoff(described: Described, default_catalog: Catalog) -> None:
    """Data intervals of a day, begun no earlier after midnight than rows may be late; no catching up, one run at a time."""
    daily = described["dags"]["u2qt_daily"]
    assert daily["timetable"] == "CronDataIntervalTimetable"
    assert daily["time_zone"] == str(default_catalog.time_zone)
    minute, hour, *every_day = daily["schedule"].split()
    assert every_day == ["*", "*", "*"]
    assert int(hour) * 3600 + int(minute) * 60 >= default_catalog.delivery_lag.total_seconds()
    assert daily["catchup"] is False
    assert daily["max_active_runs"] == 1


def test_values_of_a_run_reach_commands_through_the_environment_alone(described: Described) -> None:
    """No template in the text that the shell reads; the workers' own settings stay."""
    for task in bash_tasks(described):
        assert not re.search(r"{[{%]", task["command"]), task["task_id"]
        assert task["env"], task["task_id"]
        assert task["append_env"] is True


def test_a_hostile_value_stays_one_argument(described: Described, tmp_path: Path) -> None:
    """Even past the parameters' patterns, no value becomes shell."""
    hostile = f"$(touch {tmp_path}/a); touch {tmp_path}/b #`touch {tmp_path}/c` \" '"
    fake = {"FAKE_LOG": str(tmp_path / "log"), "FAKE_VERB": "none", "U2QT_BIN": str(FAKE), "U2QT_ROOT": "/lake", "U2QT_INPUT": "/raw"}
    for task in bash_tasks(described):
        values = dict.fromkeys(task["env"], hostile)
        subprocess.run(["bash", "-c", task["command"]], env=os.environ | fake | values, check=True)
        assert f"[{hostile}]" in (tmp_path / "log").read_text()
        (tmp_path / "log").unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_setting_is_named(described: Described) -> None:
    """Tasks run in a scratch folder, so the lakehouse's relative default would be a wrong one."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("U2QT_")}
    for task in bash_tasks(described):
        ended = subprocess.run(["bash", "-c", task["command"]], env=bare | {"U2QT_BIN": str(FAKE)}, capture_output=True, text=True, check=False)
        assert ended.returncode not in (0, 30)
        assert "U2QT_ROOT: expected the lakehouse, an absolute path or URI" in ended.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dag_files_import_nothing_of_ours(path: Path) -> None:
    """Airflow's environment has neither u2qt nor Spark."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {"airflow", "collections", "datetime", "json", "os", "typing"}
