"""The structured log: what a line holds, where it goes, what it never holds."""

import contextlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import DAILY_STAGES, audit_tokens, build_user_features, encode_users, event_log, publish_tokens, validate_sources
from jobs.context import Context
from jobs.errors import GateRefused, Infrastructure
from jobs.ledger import record_stage
from schemas.keys import Days
from tests.conftest import PUBLISHED, REPOSITORY


@pytest.fixture
def published(published_few: Context) -> Context:
    """Three sources are enough here, and half the time."""
    return published_few


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


WRITER = """
import sys
from jobs import event_log
with event_log.written_to(sys.argv[1]):
    for n in range(200):
        event_log.say("stage_done", {"run_id": sys.argv[2], "rows": {f"hop{i}": n for i in range(500)}})
"""


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    """Lines of 6 kB, longer than a pipe's atomic write: none is torn or lost."""
    path = tmp_path / "events.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"run-{n}"]) for n in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    found = [(line["run_id"], line["rows"]["hop499"]) for line in lines(path)]  # type: ignore[index]
    assert sorted(found) == sorted((f"run-{n}", number) for n in range(4) for number in range(200))
    assert path.stat().st_size > 800 * 6000


def test_a_line_is_ascii_and_a_line(tmp_path: Path) -> None:
    """Outside text can neither end a line nor speak to a terminal."""
    path = tmp_path / "events.jsonl"
    with event_log.written_to(str(path)):
        event_log.say("stage_refused", {"error": "a\nb\u2028c\x1b[31m\x9b\ud800d"})
    text = path.read_bytes()
    assert text.count(b"\n") == 1
    assert text.rstrip(b"\n").decode("ascii").isprintable()


def test_a_secret_of_the_command_line_is_not_in_its_end(tmp_path: Path) -> None:
    """An error may quote a setting."""
    path = tmp_path / "events.jsonl"
    with event_log.written_to(str(path)), contextlib.suppress(GateRefused), event_log.command("build", "r", ["hunter22"]):
        raise GateRefused("found hunter22 there")
    assert lines(path)[-1]["error"] == "found ***** there"


def input_words(context: Context) -> tuple[set[str], set[str]]:
    """User ids and texts of the input, longer than a number or a name of ours, from the clean rows of all sources."""
    ids, texts = set(), set()
    for source in context.catalog.sources:
        rows = context.lake.read(f"source_{source.name}")
        kept = [name for name, kind in rows.dtypes if kind in ("string", "binary") and name not in ("user_id", "run_id", "delivery_id")]
        for row in rows.select("user_id", *kept).collect():
            ids.add(text_of(row["user_id"]))
            texts |= {text_of(row[name]) for name in kept if row[name] is not None}
    return ids, {text for text in texts if len(text) >= 6}


def text_of(value: str | bytearray) -> str:
    return value if isinstance(value, str) else bytes(value).decode()


def test_a_real_run_logs_its_stages_and_no_user(writable: Context, tmp_path: Path) -> None:
    """A whole day again, one that skips, one refused for want of an audit: no id and no text of the input stands in any line."""
    path, day = tmp_path / "events.jsonl", Days(PUBLISHED.first, PUBLISHED.first)
    with event_log.written_to(str(path)):
        for stage in (validate_sources, build_user_features, encode_users, audit_tokens, publish_tokens):
            stage.run(writable, day, force=True)
        publish_tokens.run(writable, day)
        with pytest.raises(GateRefused):
            publish_tokens.run(writable, Days(PUBLISHED.last.replace(day=9), PUBLISHED.last.replace(day=9)), "v1")
    found = [(line["event"], line["stage"]) for line in lines(path) if line["event"] != "stage_started"]
    assert found == [
        *(("stage_done", stage) for stage in DAILY_STAGES),
        ("stage_skipped", "publish_tokens"),
        ("stage_refused", "publish_tokens"),
    ]
    done = lines(path)[1]
    assert done["run_id"] == "second"
    assert done["ds_from"] == done["ds_to"] == "2024-01-01"
    assert done["rows"]["bill.clean"] > 0  # type: ignore[index]
    text = path.read_text(encoding="utf-8")
    ids, texts = input_words(writable)
    assert len(ids) > 30
    assert len(texts) > 100
    assert not [word for word in ids | texts if word in text or json.dumps(word)[1:-1] in text]


def test_the_document_has_every_event_and_field(tmp_path: Path) -> None:
    """Its example is a line as it is written; its table names each event that is in the code."""
    text = (REPOSITORY / "docs" / "observability.md").read_text(encoding="utf-8")
    example = json.loads(text.split("```json\n", 1)[1].split("\n", 1)[0])
    path = tmp_path / "events.jsonl"
    with event_log.written_to(str(path)):
        event_log.stage_ended("encode_users", "r", PUBLISHED, "v1", status="done", rows={"encoded": 1}, seconds=1.0, error=None)
    assert list(example) == list(lines(path)[0])
    for event in ("command_started", "command_ended", "message", *(f"stage_{end}" for end in ("started", "done", "skipped", "refused", "failed"))):
        assert f"`{event}`" in text


def test_a_log_adds_no_spark_job(ready: Context, tmp_path: Path) -> None:
    """A stage's row in the ledger takes as many jobs with a log as without."""
    tracker, taken = ready.spark.sparkContext.statusTracker(), []
    for target in (None, str(tmp_path / "events.jsonl")):
        before = len(tracker.getJobIdsForGroup())
        with event_log.written_to(target), record_stage(ready, "join_labels", PUBLISHED) as record:
            record.rows["user_tokens"] = 1
        taken.append(len(tracker.getJobIdsForGroup()) - before)
    assert taken[0] == taken[1] > 0
    assert len(lines(tmp_path / "events.jsonl")) == 2
