"""The structured log: what a line holds, where it goes, what it never holds."""

import contextlib
import json
import logging
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from jobs import event_log, publish_tokens, validate_sources
from jobs.context import Context
from jobs.errors import GateRefused, Infrastructure
from schemas.keys import Days
from tests.conftest import PUBLISHED


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_command_begins_and_ends_with_its_exit_code(tmp_path: Path) -> None:
    """Appended, so an earlier command's lines stay; an expected error's text may stand, another's type alone."""
    path = tmp_path / "events.jsonl"
    for error in (None, GateRefused("bill: 0 rows"), ZeroDivisionError("user canary"), KeyboardInterrupt()):
        with event_log.written_to(str(path)), contextlib.suppress(BaseException), event_log.command("run day", "r1"):
            if error is not None:
                raise error
    ended = [line for line in lines(path) if line["event"] == "command_ended"]
    assert [(line["exit_code"], line["level"], line.get("error")) for line in ended] == [
        (0, "info", None),
        (10, "warning", "bill: 0 rows"),
        (1, "error", "ZeroDivisionError"),
        (130, "error", "KeyboardInterrupt"),
    ]
    started = [line for line in lines(path) if line["event"] == "command_started"]
    assert [(line["command"], line["run_id"]) for line in started] == [("run day", "r1")] * 4
    assert str(started[0]["time"]).endswith("+00:00")


def test_a_stage_s_lines_have_days_rows_and_status(tmp_path: Path) -> None:
    """A stage without days and a version has neither key."""
    path = tmp_path / "events.jsonl"
    with event_log.written_to(str(path)):
        event_log.stage_started("join_labels", "r", None, None)
        event_log.stage_ended("encode_users", "r", PUBLISHED, "v1", status="failed", rows={"encoded": 3}, seconds=1.23456, error="OSError")
    started, ended = lines(path)
    assert set(started) == {"time", "level", "event", "run_id", "stage"}
    assert {name: value for name, value in ended.items() if name != "time"} == {
        "level": "error",
        "event": "stage_failed",
        "run_id": "r",
        "stage": "encode_users",
        "ds_from": "2024-01-01",
        "ds_to": "2024-01-03",
        "tokenizer_version": "v1",
        "status": "failed",
        "rows": {"encoded": 3},
        "seconds": 1.235,
        "error": "OSError",
    }


def test_standard_error_is_a_target_and_none_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a log nothing is printed, not even a refusal."""
    for target in (None, "", "-"):
        with event_log.written_to(target):
            event_log.say("stage_refused", {"stage": f"to {target}"}, logging.WARNING)
    said = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["stage"] for line in said] == ["to -"]


def test_plain_warnings_are_in_the_file_and_still_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees what a person saw without a log; a traceback, which could quote a row, is nowhere."""
    path = tmp_path / "events.jsonl"
    with event_log.written_to(str(path)):
        try:
            raise ValueError("canary")
        except ValueError:
            logging.getLogger("u2qt").warning("the root is read-only", exc_info=False)
    assert "the root is read-only" in capsys.readouterr().err
    (line,) = lines(path)
    assert (line["event"], line["message"]) == ("message", "the root is read-only")
    record = logging.LogRecord("u2qt", logging.ERROR, "", 0, "broke", None, (ValueError, ValueError("canary"), None))
    assert "canary" not in event_log.JsonLines().format(record)


def test_a_log_that_can_t_be_written_is_refused_before_work(tmp_path: Path) -> None:
    """By name, with the way out."""
    with pytest.raises(Infrastructure, match=r"--log .*nowhere.* expected a file in a folder"), event_log.written_to(str(tmp_path / "nowhere" / "log")):
        pytest.fail("the block was entered")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_said_once_and_the_work_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Later events are given up."""
    with event_log.written_to("/dev/full"):
        for _ in range(3):
            event_log.say("stage_started", {})
    assert capsys.readouterr().err.count("can't be written any more (No space left on device)") == 1


def test_a_real_run_logs_its_stages_and_no_user(writable: Context, tmp_path: Path) -> None:
    """A day validated again, a publish refused for want of an audit, one that skips: no id of the input stands in any line."""
    path, day = tmp_path / "events.jsonl", Days(PUBLISHED.first, PUBLISHED.first)
    users = {row.user_id for row in writable.lake.read("user_features").select("user_id").distinct().collect()}
    raw = {row[0] for source in ("bill", "search") for row in writable.lake.read(f"source_{source}").select(F.col("user_id")).distinct().collect()}
    with event_log.written_to(str(path)):
        validate_sources.run(writable, day, force=True)
        publish_tokens.run(writable, day)
        with pytest.raises(GateRefused):
            publish_tokens.run(writable, Days(PUBLISHED.last.replace(day=9), PUBLISHED.last.replace(day=9)), "v1")
    found = [(line["event"], line["stage"]) for line in lines(path)]
    assert found == [
        ("stage_started", "validate_sources"),
        ("stage_done", "validate_sources"),
        ("stage_started", "publish_tokens"),
        ("stage_skipped", "publish_tokens"),
        ("stage_started", "publish_tokens"),
        ("stage_refused", "publish_tokens"),
    ]
    done = lines(path)[1]
    assert done["run_id"] == "second"
    assert done["ds_from"] == done["ds_to"] == "2024-01-01"
    assert done["rows"]["bill.clean"] > 0  # type: ignore[index]
    text = path.read_text(encoding="utf-8")
    assert len(users) > 10
    assert not [user for user in users | raw if user in text]
