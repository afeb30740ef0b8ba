"""The last days, a line each: of literal ledgers, and of the three days that the fixtures publish."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from jobs import DAILY_STAGES, show_days, show_status, write_report
from jobs.context import Context
from jobs.errors import BadInput
from jobs.ledger import RUNS_SCHEMA
from jobs.show_days import DayLine, furthest
from jobs.show_status import StageStatus
from schemas.tokenizers import PROMOTIONS

DS = date(2026, 1, 14)
START = datetime(2026, 1, 15, 4, 30, tzinfo=UTC)
WIDE = DayLine(
    ds=DS,
    stage="validate_sources",
    status=show_status.OLD,
    users_published=999_999_999,
    tokenizer_version="v1",
    rows_in=9_999_999_999,
    quarantined=999_999_999,
    drift_warned=99,
    drift_blocked=99,
    seconds=99_999.9,
)


def ran(stage: str, first: date, last: date, minute: int, status: str = "done", seconds: float = 6.0) -> tuple[object, ...]:
    return (stage, first, last, status, {}, {}, {}, seconds, START + timedelta(minutes=minute), None, "r", None)


def ledger(context: Context, *rows: tuple[object, ...]) -> tuple[DayLine, ...]:
    """The lines of an initialised lakehouse with these rows in its ledger."""
    context.lake.append("runs", context.spark.createDataFrame(list(rows), RUNS_SCHEMA).coalesce(1), {})
    return show_days.run(context)


def printed(lines: tuple[DayLine, ...]) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(show_days.render(lines))
    return console.export_text()


def test_published_days_have_their_users_rows_and_seconds(published: Context) -> None:
    """Three days in one job a stage: every day has its own users, and a share of the seconds. The table's own counts agree."""
    lines = show_days.run(published)
    assert [str(line.ds) for line in lines] == ["2024-01-01", "2024-01-02", "2024-01-03"]
    counted = {row["ds"]: row["count"] for row in published.lake.read("user_tokens").groupBy("ds").count().collect()}
    assert {line.ds: line.users_published for line in lines} == counted
    assert {(line.stage, line.status, line.tokenizer_version) for line in lines} == {("publish_tokens", "done", "v1")}
    assert all(line.rows_in and line.quarantined and line.seconds > 0 for line in lines)
    assert json.loads(lines[0].to_json())["ds"] == "2024-01-01"
    assert [str(line.ds) for line in show_days.run(published, date(2024, 1, 2))] == ["2024-01-01", "2024-01-02"]
    assert show_days.run(published, date(2023, 12, 31)) == ()


def test_the_first_trouble_is_shown_and_a_gap_is_missing(ready: Context) -> None:
    """A day that was refused after it was done, one that nobody ran, one half-way; a training and a mere look are no day's work."""
    lines = ledger(
        ready,
        ran("train_tokenizer", DS - timedelta(days=20), DS, 0),
        ran("validate_sources", DS - timedelta(days=3), DS - timedelta(days=2), 1, seconds=8.0),
        ran("validate_sources", DS - timedelta(days=2), DS - timedelta(days=2), 2, "refused"),
        ran("validate_sources", DS, DS, 3),
        ran("build_user_features", DS, DS, 4),
        ran("build_user_features", DS, DS, 5, "skipped"),
    )
    assert [(line.ds.day, line.stage, line.status, line.seconds) for line in lines] == [
        (11, "validate_sources", "done", 4.0),
        (12, "validate_sources", "refused", 6.0),
        (13, None, "missing", 0.0),
        (14, "build_user_features", "done", 12.0),
    ]
    assert [write_report.day_bar(line).state for line in lines] == ["missing", "refused", "missing", "missing"]
    assert "missing" in printed(lines)


def test_a_validation_that_did_not_end_is_shown_over_a_published_day(ready: Context) -> None:
    """Killed, it has no row in the ledger; its sources are `running`. One that was refused says so itself."""
    rows = [("bill", DS, "d", 4, 4, 0, 0, "passed", "r", None, None), ("search", DS, "e", 4, 4, 0, 0, "running", "r", None, None)]
    ready.lake.append("deliveries", ready.spark.createDataFrame(rows, ready.lake.read("deliveries").schema).coalesce(1), {})
    (line,) = ledger(ready, *(ran(name, DS, DS, minute) for minute, name in enumerate(DAILY_STAGES)))
    assert (line.stage, line.status) == ("validate_sources", "not ended")
    assert "not ended" in printed((line,))
    step = show_status.run(ready, DS).next
    assert "was cut short" in step.sentence
    assert step.commands == ("u2qt validate --ds 2026-01-14",)
    (line,) = ledger(ready, ran("validate_sources", DS, DS, 9, "refused"))
    assert line.status == "refused"


def test_a_removal_of_users_changes_their_number_and_no_stage(ready: Context) -> None:
    """The ledger's `adjusted` rows tell states of rows that are gone; the day got no further and no less far by them."""
    stages = ("validate_sources", "build_user_features", "encode_users", "audit_tokens", "publish_tokens")
    state = {"ds": DS, "definition": "d", "inputs": {}, "outputs": {"user_tokens": "7:1"}, "cutoff": None, "tokenizer_version": "v1"}
    told = [*ran("publish_tokens", DS, DS, 12, "adjusted")]
    told[RUNS_SCHEMA.fieldNames().index("states")] = [state]
    other = [*ran("publish_tokens", DS, DS, 3)]  # before v1's, and told of the removal after it
    other[RUNS_SCHEMA.fieldNames().index("states")] = [state | {"tokenizer_version": "v0"}]
    done = [*ran("publish_tokens", DS, DS, 5)]
    done[RUNS_SCHEMA.fieldNames().index("states")] = [state | {"outputs": {"user_tokens": "9:1"}}]
    other_told = [*other]
    other_told[RUNS_SCHEMA.fieldNames().index("status")], other_told[RUNS_SCHEMA.fieldNames().index("started_at")] = "adjusted", START + timedelta(minutes=13)
    rows = (*(ran(stage, DS, DS, n) for n, stage in enumerate(stages[:4])), ran("build_user_features", DS, DS, 11, "adjusted"))
    (line,) = ledger(ready, *rows, *map(tuple, (other, done, told, other_told)))
    assert (line.stage, line.status, line.tokenizer_version, line.users_published) == ("publish_tokens", "done", "v1", 7)


def test_a_shadow_s_refusal_is_no_trouble_of_a_published_day(ready: Context) -> None:
    """Token stages are the promoted version's; a day that it has none of is shown under any. As `u2qt status --ds` has it."""
    ready.lake.append("promotions", ready.lake.frame(PROMOTIONS, [{"seq": 1, "tokenizer_version": "v1", "run_id": "r"}]), {})
    before = DS - timedelta(days=1)
    state = {"ds": DS, "definition": "d", "inputs": {}, "outputs": {"user_tokens": "9:1"}, "cutoff": None}

    def under(version: str, stage: str, ds: date, minute: int, status: str = "done") -> tuple[object, ...]:
        row = [*ran(stage, ds, ds, minute, status)]
        row[RUNS_SCHEMA.fieldNames().index("states")] = [state | {"ds": ds, "tokenizer_version": version}]
        return tuple(row)

    inputs = [ran(stage, ds, ds, n) for ds in (before, DS) for n, stage in enumerate(("validate_sources", "build_user_features"))]
    tokens = [under("v1", stage, DS, n) for n, stage in enumerate(("encode_users", "audit_tokens", "publish_tokens"), start=2)]
    shadow = [under("v2", "encode_users", DS, 7), under("v2", "audit_tokens", DS, 8, "refused")]
    older = [under("v0", stage, before, n) for n, stage in enumerate(("encode_users", "audit_tokens", "publish_tokens"), start=2)]
    lines = ledger(ready, *inputs, *tokens, *shadow, *older)
    assert [(line.stage, line.status, line.tokenizer_version) for line in lines] == [("publish_tokens", "done", "v0"), ("publish_tokens", "done", "v1")]
    assert {stage.status for stage in show_status.run(ready, DS).stages} == {"done"}


def test_a_day_that_was_a_slip_of_a_finger_hides_no_others(ready: Context) -> None:
    """Refused, and far after all that was done; the day after the last one is no slip."""
    slip, after = DS.replace(year=2036), DS + timedelta(days=1)
    assert ledger(ready, ran("validate_sources", DS, DS, 1), ran("validate_sources", slip, slip, 2, "refused"))[-1].ds == DS
    assert [line.ds for line in ledger(ready, ran("validate_sources", after, after, 3, "refused"))] == [DS, after]


def test_at_most_thirty_days_are_shown(ready: Context) -> None:
    """The newest; the range of a single long run does not make them more."""
    lines = ledger(ready, ran("validate_sources", DS - timedelta(days=99), DS, 1))
    assert (len(lines), lines[-1].ds) == (30, DS)


def test_a_blocked_audit_says_how_many_gates_spoke(ready: Context) -> None:
    """Blocked by the days before is not refused by the suite; of two audits the newer counts."""
    drift = json.dumps({"measures": [{"severity": severity} for severity in ("warn", "warn", "block", "ok")]})
    schema = ready.lake.read("audits").schema
    rows = [(DS, "v1", n, "s", True, 9, 5, "[]", text, n == 2, START + timedelta(minutes=n), None, "r") for n, text in ((1, None), (2, drift))]
    ready.lake.append("audits", ready.spark.createDataFrame(rows, schema).coalesce(1), {})
    stages = ("validate_sources", "build_user_features", "encode_users")
    (line,) = ledger(ready, *(ran(stage, DS, DS, n) for n, stage in enumerate(stages)), ran("audit_tokens", DS, DS, 9, "refused"))
    assert (line.stage, line.status, line.drift_warned, line.drift_blocked) == ("audit_tokens", "blocked", 2, 1)
    assert write_report.day_bar(replace(line, users_published=7)).state == "refused"


def test_the_widest_figures_fit_a_hundred_columns() -> None:
    """Nothing is cut or folded."""
    text = printed((WIDE,))
    assert max(len(line) for line in text.splitlines()) <= 100
    for word in ("999,999,999", "9,999,999,999", "100,000", "old", "validate"):
        assert word in text
    assert len(text.strip().splitlines()) == 2


def test_an_empty_ledger_has_no_days(ready: Context) -> None:
    """That is no error."""
    assert show_days.run(ready) == ()


def test_without_a_lakehouse_init_is_named(context: Context) -> None:
    """As for every other command."""
    with pytest.raises(BadInput, match="u2qt init"):
        show_days.run(context)


def test_furthest_is_the_last_that_is_through_or_the_first_that_is_not() -> None:
    """Stages behind a stage that was not run don't count."""
    through, waiting, refused = (StageStatus(stage=status, status=status) for status in ("done", "not run", "refused"))
    assert furthest((waiting, through)) is None
    assert furthest((through, waiting, refused)) is through
    assert furthest((through, refused, through)) is refused


def test_only_small_tables_are_read(ready: Context) -> None:
    """A lakehouse with nothing but its ledger, deliveries, audits and promotions has its days all the same."""
    for folder in Path(ready.lake.root).iterdir():
        if folder.name not in ("runs", "deliveries", "audits", "promotions"):
            shutil.rmtree(folder)
    assert [line.status for line in ledger(ready, ran("validate_sources", DS, DS, 1))] == ["done"]
