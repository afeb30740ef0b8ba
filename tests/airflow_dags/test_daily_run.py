"""u2qt_daily, run by Airflow: with a command that only writes down its arguments, and once for a real day."""

import pytest
from airflow_processes import Airflow, FakeRun, RealLake, said
from pyspark.sql import SparkSession

from jobs import DAILY_STAGES, create_views, query_sql

VERBS = [stage.split("_")[0] for stage in DAILY_STAGES]


def calls(ds: str, verbs: list[str] = VERBS) -> list[str]:
    return [f"[{verb}][--ds][{ds}]" for verb in verbs]


def test_a_run_takes_the_day_of_its_interval_in_the_catalogs_zone(runs: dict[str, FakeRun]) -> None:
    """The last complete interval before 2024-01-04 began on the 3rd at 06:30 in Shanghai: still the 2nd in UTC."""
    assert runs["plain"].calls == calls("2024-01-03")
    assert runs["plain"].state == "success"


@pytest.mark.parametrize("name", ["asked for a day", "a day without an interval"])
def test_a_day_that_is_asked_for_wins(runs: dict[str, FakeRun], name: str) -> None:
    """Over the logical date's interval, and where there is none."""
    assert runs[name].calls == calls("2023-05-06")
    assert runs[name].state == "success"


def test_a_run_without_a_day_fails_before_the_first_command(runs: dict[str, FakeRun]) -> None:
    """Neither a data interval nor params.ds: nobody guesses from the clock."""
    run = runs["without an interval"]
    assert run.calls == []
    assert run.tasks["validate_sources"] == {"state": "failed", "tries": 1}


@pytest.mark.parametrize("name", ["shell as ds", "two lines as ds", "option as ds"])
def test_a_ds_that_is_no_day_is_refused(runs: dict[str, FakeRun], name: str) -> None:
    """By the parameter's schema, before any task."""
    assert "ParamValidationError: Invalid input for param ds" in (runs[name].refused or "")
    assert runs[name].calls == []


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("gate of validate", "validate_sources"),
        ("gate of audit", "audit_tokens"),
        ("bad input", "build_user_features"),
        ("a bug", "build_user_features"),
        ("Airflow's code for skipping", "validate_sources"),
        ("infrastructure in the audit", "audit_tokens"),
    ],
)
def test_a_refusal_is_tried_once_and_ends_the_run(runs: dict[str, FakeRun], name: str, stage: str) -> None:
    """The stage has failed after one call, and no later stage was started."""
    run, place = runs[name], DAILY_STAGES.index(stage)
    assert [call.split("]")[0][1:] for call in run.calls] == VERBS[: place + 1]
    assert run.tasks[stage] == {"state": "failed", "tries": 1}
    assert {run.tasks[later]["state"] for later in DAILY_STAGES[place + 1 :]} == {"upstream_failed"}
    assert run.state == "failed"


def test_infrastructure_is_tried_again(runs: dict[str, FakeRun]) -> None:
    """Exit code 30 once: the second try succeeds and the day goes on."""
    run = runs["infrastructure once"]
    assert run.calls == calls("2024-01-13", ["validate", "build", "encode", "encode", "audit", "publish"])
    assert run.tasks["encode_users"] == {"state": "success", "tries": 2}
    assert run.state == "success"


def test_infrastructure_is_not_tried_for_ever(runs: dict[str, FakeRun]) -> None:
    """Three calls in all, then the run has failed."""
    run = runs["infrastructure for ever"]
    assert run.calls == calls("2024-01-14", ["validate", "build", "encode", "encode", "encode"])
    assert run.state == "failed"


def test_a_delivered_day_becomes_published_tokens(airflow: Airflow, spark: SparkSession, lake: RealLake) -> None:
    """`airflow dags test` with the real command: five stages, one published row per feature row, readable in SQL."""
    ended = airflow.run("airflow", "dags", "test", "u2qt_daily", "2024-01-04", **lake.settings)
    assert ended.returncode == 0, said(ended)
    context = lake.context(spark)
    ledger = context.lake.read("runs").where("ds_from = '2024-01-03' AND ds_to = '2024-01-03'").orderBy("started_at").collect()
    assert [(row.stage, row.status) for row in ledger] == [(stage, "done") for stage in DAILY_STAGES]
    create_views.run(context)
    published = query_sql.run(context, "SELECT count(*) AS users FROM user_tokens_current WHERE ds = '2024-01-03'").collect()
    built = context.lake.read("user_features").where("ds = '2024-01-03'").count()
    assert [row.users for row in published] == [built]
    assert built > 0
