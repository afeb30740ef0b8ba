"""A dozen kills: whatever process dies at whatever moment, the day worked again is the undisturbed day, and no reader saw a half one."""

import json
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from benchmarks import kill_lake
from benchmarks.kill_day import PLANS, Round, _check, rounds, summary
from benchmarks.kill_lake import Prepared


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def prepared(spark: SparkSession, work: Path) -> dict[str, Prepared]:
    return kill_lake.prepare(spark, work)


def test_a_dozen_kills_leave_no_trace(spark: SparkSession, prepared: dict[str, Prepared], work: Path) -> None:
    """Every target, both tasks, and the gaps around a publish; `python -m benchmarks.kill_day` has the long run."""
    played = list(rounds(spark, prepared, work, range(len(PLANS)), seed=7))
    assert [found.wrong for found in played] == [[] for _ in PLANS], summary([vars_of(found) for found in played])
    assert len(played) == 12
    assert {found.target for found in played} == {"driver", "jvm", "worker", "executor"}
    assert all(found.moment > 0 for found in played if found.where != "any"), "the aimed kills found their commit"
    assert sum(found.queries for found in played) > 100
    assert not all(found.survived for found in played)


def vars_of(found: Round) -> dict[str, object]:
    return {name: getattr(found, name) for name in Round.__dataclass_fields__}


def test_the_check_sees_a_lost_row_a_missing_file_and_a_half_day(prepared: dict[str, Prepared]) -> None:
    """A state before the task is not the state after it; a look at neither is counted."""
    task, found = prepared["day"], Round(number=0, target="driver", task="day", where="any")
    before = kill_lake.whole_days(task.template)
    half = {"2024-01-01": before["2024-01-01"]}
    _check(found, task, task.template, {json_of(before): 2, json_of(half): 1})
    assert (found.queries, found.inconsistent) == (3, 1)
    assert any(line.startswith("user_tokens: ") for line in found.wrong)
    assert any("1 of 3 looks" in line for line in found.wrong)


def json_of(state: dict[str, str]) -> str:
    return json.dumps(state, sort_keys=True)


def test_files_that_no_version_knows_are_strays(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    """An uncommitted data file, a half-written commit, a lease; nothing of an undisturbed lakehouse is one."""
    root = tmp_path / "lake"
    shutil.copytree(prepared["day"].template, root)
    assert kill_lake.strays(root) == []
    planted = ("user_tokens/ds=2024-01-01/part-x.snappy.parquet", "user_tokens/_delta_log/.1.json.x.tmp", "_u2qt/leases/x.json")
    for name in planted:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert kill_lake.strays(root) == sorted(planted)
    (active,) = kill_lake.files_of(root / "promotions")
    active.unlink()
    assert kill_lake.unreadable_files(root) == [str(active)]
