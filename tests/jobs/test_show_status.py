"""Where a day is, and what to run next."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from rich.console import Console

from jobs import DAILY_STAGES, show_status
from jobs.context import Context
from jobs.errors import BadInput
from jobs.ledger import RUNS_SCHEMA
from jobs.show_status import Next, StageStatus, judged_audit, marked_old, next_step

DS = date(2026, 1, 14)
START = datetime(2026, 1, 15, 4, 30, tzinfo=UTC)
REFUSAL = "source bill, 2026-01-14: 0 rows delivered, expected at least 1 [bold]"


def stage(name: str, status: str = "done", started: str = "1", error: str = "") -> StageStatus:
    return StageStatus(stage=name, status=status, started=started, run_id="run-a", error=error)


def after(done: int, *rest: StageStatus) -> tuple[StageStatus, ...]:
    """The first `done` stages done, then `rest`, then stages that did not run."""
    stages = (*(stage(name) for name in DAILY_STAGES[:done]), *rest)
    return (*stages, *(stage(name, "not run") for name in DAILY_STAGES[len(stages) :]))


def ran(name: str, minute: int, status: str = "done", error: str | None = None) -> tuple[object, ...]:
    note = json.dumps({"error": error}) if error else None
    rows = {"rows_in": 1234, "bill.rows_in": 1}
    return (name, DS, DS, status, rows, {}, {}, 1.5, START + timedelta(minutes=minute), note, f"run-{minute}")


def shown(context: Context) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(show_status.render(show_status.run(context, DS)))
    return console.export_text()


def append(context: Context, table: str, rows: list[tuple[object, ...]]) -> None:
    schema = RUNS_SCHEMA if table == "runs" else context.lake.read(table).schema
    if table == "runs":
        rows = [(*row, None) for row in rows]  # states
    context.lake.append(table, context.spark.createDataFrame(rows, schema).coalesce(1), {})


@pytest.mark.parametrize(
    ("stages", "sentence", "command"),
    [
        (after(1), "build_user_features comes next.", "u2qt build --ds 2026-01-14"),
        (after(3, stage("audit_tokens", "refused")), "audit_tokens was refused", "u2qt audit --ds 2026-01-14"),
        (after(2, stage("encode_users", "failed")), "the log of run-a", "u2qt encode --ds 2026-01-14"),
    ],
)
def test_the_first_stage_in_the_way_decides(stages: tuple[StageStatus, ...], sentence: str, command: str) -> None:
    """Later stages don't matter until it is done."""
    step = next_step(DS, stages, promoted="v1", registered=("v1",))
    assert sentence in step.sentence
    assert step.commands == (command,)


def test_a_blocked_source_is_to_be_looked_at_first() -> None:
    """Running the gate again without a look would only say the same."""
    step = next_step(DS, after(0, stage("validate_sources", "refused", error=REFUSAL)), blocked=("bill",), promoted="v1")
    assert step.commands == (
        "u2qt quarantine show --source bill --delivered-ds 2026-01-14",
        "u2qt validate --ds 2026-01-14",
    )
    assert step.why == REFUSAL


@pytest.mark.parametrize(("registered", "first"), [((), "u2qt train --from"), (("v1", "v2"), "u2qt tokenizer promote v2")])
def test_encoding_waits_for_a_promoted_tokenizer(registered: tuple[str, ...], first: str) -> None:
    """Trained but not promoted, or not even trained."""
    step = next_step(DS, after(2), registered=registered)
    assert step.commands[0].startswith(first)
    assert step.commands[-1] == "u2qt encode --ds 2026-01-14"


@pytest.mark.parametrize(
    ("published", "promoted", "command"),
    [
        ((("v1", 3),), "v1", "u2qt report --ds 2026-01-14 --out 2026-01-14.html"),
        ((("v1", 3),), None, "u2qt tokenizer promote v1"),
        ((("v1", 3),), "v2", "u2qt encode --ds 2026-01-14"),
        ((), None, "u2qt encode --ds 2026-01-14"),
    ],
)
def test_a_day_that_is_through(published: tuple[tuple[str, int], ...], promoted: str | None, command: str) -> None:
    """Only the promoted tokenizer's rows make it whole."""
    assert next_step(DS, after(5), published=published, promoted=promoted).commands[0] == command


def test_a_stage_done_before_its_input_is_old_and_so_are_those_behind_it() -> None:
    """Features built again: codes, audit and publication are of the rows before."""
    stages = {name: stage(name, started=str(n)) for n, name in enumerate(DAILY_STAGES)}
    stages["build_user_features"] = stage("build_user_features", started="9")
    marked = marked_old(stages)
    assert [s.status for s in marked] == ["done", "done", *["older than its input"] * 3]
    assert next_step(DS, marked, promoted="v1").commands == ("u2qt encode --ds 2026-01-14",)


def test_a_blocked_audit_is_released_only_by_a_publish_after_it() -> None:
    """Refused by the days before, not by its suite; a publish with a reason, and later, lets the day through."""
    stages = {name: stage(name, started="3") for name in DAILY_STAGES[:3]} | {"audit_tokens": stage("audit_tokens", "refused", "5")}
    blocked = judged_audit(stages, blocked=True)
    assert blocked["audit_tokens"].status == "blocked"
    step = next_step(DS, marked_old(blocked), promoted="v1")
    assert step.commands[-1] == "u2qt publish --ds 2026-01-14 --accept REASON"
    shadow = next_step(DS, marked_old(blocked), promoted="v1", version="v2")
    assert shadow.commands[-1] == "u2qt publish --ds 2026-01-14 --tokenizer-version v2 --accept REASON"
    assert judged_audit(stages, blocked=False)["audit_tokens"].status == "refused"
    for started, reason, status in (("6", "a holiday", "accepted"), ("6", "", "blocked"), ("4", "a holiday", "blocked")):
        publish = StageStatus(stage="publish_tokens", status="done", started=started, run_id="run-b", accepted=reason)
        assert judged_audit(stages | {"publish_tokens": publish}, blocked=True)["audit_tokens"].status == status
    through = judged_audit(stages | {"publish_tokens": replace(publish, started="6")}, blocked=True)
    assert next_step(DS, marked_old(through), published=(("v1", 3),), promoted="v1").sentence == "Published; nothing is left to run."


def test_a_replayed_quarantine_makes_features_old() -> None:
    """Released rows are in no feature row yet."""
    stages = {name: stage(name) for name in DAILY_STAGES} | {"replay_quarantine": stage("replay_quarantine", started="2")}
    assert [s.status for s in marked_old(stages)][:2] == ["done", "older than its input"]


def test_a_day_with_nothing_says_what_to_run_first(ready: Context) -> None:
    """Without a tokenizer that is validation: a whole day could not be encoded."""
    status = show_status.run(ready, DS)
    assert status.next == Next(sentence="Nothing of this day was run.", commands=("u2qt validate --ds 2026-01-14",))
    assert {s.gate for s in status.sources} == {"not delivered"}
    assert next_step(DS, status.stages, promoted="v1").commands == ("u2qt run-day --ds 2026-01-14",)
    assert "published: nothing" in shown(ready)


def test_a_refused_day_shows_its_counts_and_why(ready: Context) -> None:
    """The newest row of a stage counts; the reason is printed as it is, brackets included."""
    append(
        ready,
        "deliveries",
        [("bill", DS, "d", 1234, 1230, 1, 1, "passed", "r", 2, None), ("bill", DS, "e", 0, 0, 0, 0, "blocked", "r", None, None)],
    )
    append(ready, "runs", [ran("validate_sources", 1), ran("validate_sources", 2, "refused", REFUSAL)])
    text = shown(ready)
    for word in (
        "1,234",
        "1,230",
        "forgotten",
        "blocked",
        "refused",
        "run-2",
        "2026-01-15 04:32:00",
        REFUSAL,
        "not delivered",
        "not run",
    ):
        assert word in text
    assert "run-1 " not in text


def test_rows_of_a_chunk_say_of_how_many_days(ready: Context) -> None:
    """One ledger row of two days is found for each of them, and its rows are not taken for one day's."""
    row = ("validate_sources", DS - timedelta(days=1), DS, "done", {"rows_in": 9}, {}, {}, 1.5, START, None, "run-a")
    append(ready, "runs", [row])
    assert "9 (2 days)" in shown(ready)


def test_a_published_day_names_versions_and_rows(ready: Context) -> None:
    """The promoted version is marked."""
    row = ("u", DS, "v1", START, 1, "r", *([0] for _ in ready.catalog.sources))
    append(ready, "user_tokens", [row])
    append(ready, "tokenizers", [("v1", "f", "/c", DS, DS, "{}", "{}", None, "r")])
    append(ready, "promotions", [(1, "v1", None, None, None, "r")])
    append(ready, "runs", [ran(name, minute) for minute, name in enumerate(DAILY_STAGES)])
    text = shown(ready)
    assert "published: 1 users with v1 (promoted)" in text
    assert "u2qt report --ds 2026-01-14" in text


def test_without_a_lakehouse_init_is_named(context: Context) -> None:
    """As for every other command."""
    with pytest.raises(BadInput, match="u2qt init"):
        show_status.run(context, DS)
