"""A dozen kills: whatever process dies at whatever moment, the day worked again is the undisturbed day, and no reader saw a half one."""

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path

from pyspark.sql import SparkSession

from benchmarks import kill_lake
from benchmarks.kill_day import PLANS, Round, check, rounds, summary, vacuum
from benchmarks.kill_lake import Commit, Prepared
from benchmarks.kill_strike import AIMED_AT, moment

COMMITS = (
    Commit(table="source_bill", stage=0, seconds=4.0),
    Commit(table="runs", stage=0, seconds=1.0),
    Commit(table="staged_user_tokens", stage=1, seconds=2.0),
    Commit(table="runs", stage=1, seconds=1.0),
    Commit(table="user_tokens_superseded", stage=2, seconds=1.0),
    Commit(table="user_tokens", stage=2, seconds=1.0),
    Commit(table="runs", stage=2, seconds=1.0),
)


def test_a_dozen_kills_leave_no_trace(spark: SparkSession, tasks: dict[str, Prepared], tmp_path: Path) -> None:
    """Every target, both tasks, and the gaps around a publish; `python -m benchmarks.kill_day` has the long run."""
    played = list(rounds(spark, tasks, tmp_path, range(len(PLANS)), seed=7))
    said = summary([asdict(found) for found in played])
    assert [found.wrong for found in played] == [[] for _ in PLANS], said
    assert len(played) == 12
    assert {found.target for found in played if found.moment > 0} == {"driver", "jvm", "worker", "executor"}, said
    assert len({found.stage for found in played if found.moment > 0}) >= 3, said
    assert sum(found.queries for found in played) > 100
    assert not all(found.survived for found in played)


def test_moments_are_drawn_evenly_over_stages_and_aimed_where_they_should_be() -> None:
    """A stage of one commit is as likely as one of three; a gap's kill falls before the next commit, at the pace of the run."""
    draw = random.Random(1)
    drawn = [moment(COMMITS, "any", draw) for _ in range(300)]
    by_stage = [sum(at.stage == stage for at in drawn) for stage in (0, 1, 2)]
    assert all(70 < count < 130 for count in by_stage), by_stage
    assert {(at.stage, at.commits) for at in drawn} == {
        (commit.stage, place) for commit in COMMITS for place in range(3) if place < sum(c.stage == commit.stage for c in COMMITS)
    }
    aimed = {where: moment(COMMITS, where, draw) for where in AIMED_AT}
    assert {where: (at.stage, at.commits, at.before) for where, at in aimed.items()} == {"encoding": (1, 0, 0), "gap": (2, 1, 1.0), "published": (2, 2, 2.0)}
    gap = aimed["gap"]
    assert 0 <= gap.seconds < COMMITS[5].seconds
    assert gap.delay(elapsed=3.0) == 3 * gap.seconds
    assert gap.delay(elapsed=0.5) == gap.seconds


def test_the_check_sees_a_lost_row_a_missing_file_and_a_half_day(tasks: dict[str, Prepared]) -> None:
    """A state before the task is not the state after it; a look at neither is counted."""
    task, found = tasks["day"], Round(number=0, target="driver", task="day", where="any")
    before = kill_lake.whole_days(task.template)
    half = {"2024-01-01": before["2024-01-01"]}
    check(found, task, task.template, {json_of(before): 2, json_of(half): 1})
    assert (found.queries, found.inconsistent) == (3, 1)
    assert found.lost > 0
    assert any(line.startswith("user_tokens: ") for line in found.wrong)
    assert any("1 of 3 looks" in line for line in found.wrong)
    assert "round 0: user_tokens: " in summary([asdict(found)])


def json_of(state: dict[str, str]) -> str:
    return json.dumps(state, sort_keys=True)


def test_files_that_no_version_knows_are_strays_until_a_vacuum(spark: SparkSession, tasks: dict[str, Prepared], tmp_path: Path) -> None:
    """An uncommitted data file, an unfinished log entry, a lease; nothing of an undisturbed lakehouse is one."""
    root, found = tmp_path / "lake", Round(number=0, target="driver", task="day", where="any")
    shutil.copytree(tasks["day"].template, root)
    assert kill_lake.strays(root) == []
    data = ["user_tokens/ds=2024-01-01/.part-x.snappy.parquet.crc", "user_tokens/ds=2024-01-01/part-x.snappy.parquet"]
    planted = ["_u2qt/leases/x.json", *data, "user_tokens/_delta_log/.1.json.x.tmp"]
    for name in planted:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert kill_lake.strays(root) == sorted(planted)
    vacuum(spark, root, found)
    assert kill_lake.strays(root) == ["_u2qt/leases/x.json"]
    assert found.wrong == ["left over by a vacuum: _u2qt/leases/x.json"]
    (active,) = kill_lake.files_of(root / "promotions")
    active.unlink()
    assert kill_lake.unreadable_files(root) == [str(active)]
