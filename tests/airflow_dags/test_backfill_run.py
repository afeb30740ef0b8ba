"""u2qt_backfill, run by Airflow with a command that only writes down its arguments and prints a plan, and once for two real days."""

import json

import pytest
from airflow_processes import Airflow, FakeRun, RealLake, said
from pyspark.sql import SparkSession

from benchmarks.kill_lake import FIRST, SECOND, THIRD
from jobs import plan_days
from schemas.keys import Days

PLANNED = "[plan][--from][2024-01-01][--to][2024-01-05][--format][days]"


def done(ds: str, last: str = "", at_once: int = 1) -> str:
    return f"[backfill][--from][{ds}][--to][{last or ds}][--days-at-once][{at_once}]"


def in_any_order(run: FakeRun) -> list[str]:
    """The plan, then the days sorted: `airflow dags test` takes mapped tasks as its database returns them."""
    return run.calls[:1] + sorted(run.calls[1:])


def test_each_planned_day_is_a_task_oldest_first(runs: dict[str, FakeRun]) -> None:
    """Named by its day, whatever order the plan has them in."""
    run = runs["backfill"]
    assert in_any_order(run) == [PLANNED, done("2024-01-01"), done("2024-01-03")]
    assert run.state == "success"
    assert run.mapped == ["backfill_day 2024-01-01", "backfill_day 2024-01-03"]


def test_days_without_a_gap_share_a_task_as_far_as_asked(runs: dict[str, FakeRun]) -> None:
    """Two at once of the 1st to 3rd and the 5th: three tasks, each named by its days."""
    run = runs["backfill in chunks"]
    assert in_any_order(run) == [PLANNED, done("2024-01-01", "2024-01-02", 2), done("2024-01-03", at_once=2), done("2024-01-05", at_once=2)]
    assert run.mapped == ["backfill_day 2024-01-01 to 2024-01-02", "backfill_day 2024-01-03", "backfill_day 2024-01-05"]


def test_version_and_cutoff_reach_plan_and_days(runs: dict[str, FakeRun]) -> None:
    """Left out where they are not given."""
    chosen = "[--tokenizer-version][v2][--cutoff][2024-02-01T00:00:00+08:00]"
    assert runs["backfill of a version"].calls == [PLANNED + chosen, done("2024-01-01") + chosen]


def test_without_a_day_due_nothing_is_run(runs: dict[str, FakeRun]) -> None:
    """And the run has succeeded."""
    run = runs["nothing due"]
    assert run.calls == [PLANNED]
    assert run.state == "success"


def test_a_refused_day_fails_and_the_others_are_done(runs: dict[str, FakeRun]) -> None:
    """The gate's answer stands; the next run's plan has what is left."""
    run = runs["a gate in the backfill"]
    assert in_any_order(run) == [PLANNED, done("2024-01-01"), done("2024-01-02")]
    refused, later = run.mapped if run.calls[1] == done("2024-01-01") else reversed(run.mapped)
    assert run.tasks[refused] == {"state": "failed", "tries": 1}
    assert run.tasks[later]["state"] == "success"
    assert run.state == "failed"


def test_infrastructure_is_tried_again(runs: dict[str, FakeRun]) -> None:
    """As on a daily run."""
    run = runs["infrastructure in the backfill"]
    assert run.calls == [PLANNED, done("2024-01-01"), done("2024-01-01")]
    assert run.state == "success"


def test_output_that_is_no_plan_does_nothing(runs: dict[str, FakeRun]) -> None:
    """Nobody guesses days."""
    run = runs["no plan"]
    assert run.calls == [PLANNED]
    assert run.tasks["days_to_do"] == {"state": "failed", "tries": 1}
    assert run.state == "failed"


@pytest.mark.parametrize(("name", "parameter"), [("shell as cutoff", "cutoff"), ("no day at once", "days_at_once")])
def test_wrong_parameters_are_refused(runs: dict[str, FakeRun], name: str, parameter: str) -> None:
    """Before any task."""
    assert f"ParamValidationError: Invalid input for param {parameter}" in (runs[name].refused or "")
    assert runs[name].calls == []


def test_two_real_days_are_done(airflow: Airflow, spark: SparkSession, lake: RealLake) -> None:
    """Late rows of the first day and the whole third one; the second is due then, for the third's delivery has rows of it."""
    context, asked = lake.context(spark), Days(FIRST, THIRD)
    assert {entry.ds for entry in plan_days.run(context, asked)} == {FIRST, THIRD}
    conf = json.dumps({"from": str(FIRST), "to": str(THIRD)})
    ended = airflow.run("airflow", "dags", "test", "u2qt_backfill", "--conf", conf, **lake.settings)
    assert ended.returncode == 0, said(ended)
    assert {entry.ds for entry in plan_days.run(context, asked)} == {SECOND}
    tokens, features = (context.lake.read(table).where(f"ds = '{THIRD}'").count() for table in ("user_tokens", "user_features"))
    assert tokens == features > 0
    published = context.lake.read("runs").where("stage = 'publish_tokens' AND run_id NOT IN ('prepare', 'third')")
    assert {(row.ds_from, row.ds_to, row.status) for row in published.collect()} == {(FIRST, FIRST, "done"), (THIRD, THIRD, "done")}
