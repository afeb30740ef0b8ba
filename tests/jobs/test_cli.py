"""The command line: exit codes, messages, options. Refusals are recorded: those commands are run on a copy of the `published` lakehouse."""

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import DAILY_STAGES, cli, cli_options
from jobs.context import Context
from jobs.endings import INTERRUPTED
from jobs.errors import BadInput, GateRefused, Infrastructure
from schemas.keys import Days
from tests.conftest import REPOSITORY


@pytest.fixture
def same_session(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands use the tests' session and don't stop it."""

    monkeypatch.setattr("jobs.session.build_session", lambda master=None, conf=None: spark)
    monkeypatch.setattr(type(spark), "stop", lambda self: None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "No such command"),
        (("build", "--nonsense"), "No such option"),
        (("catalog", "check", "/nowhere"), "found nothing there"),
    ],
)
def test_bad_arguments_exit_20(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    """Usage errors and refusals alike."""
    assert cli.call(list(arguments)) == 20
    assert said in capsys.readouterr().err


TRAIN = ("train", "--from", "2024-01-01", "--to", "2024-01-01", "--tokenizer-version", "t")


@pytest.mark.usefixtures("same_session")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("build", "--ds", "2024-02-30"), "day '2024-02-30'"),
        (("build", "--ds", "yesterday"), "expected a date written YYYY-MM-DD"),
        (("build",), "expected either --ds D, or both --from D and --to D"),
        (("build", "--from", "2024-01-02", "--to", "2024-01-01"), "2024-01-02"),
        (("build", "--ds", "2024-01-01", "--cutoff", "noon"), "noon"),
        (("encode", "--ds", "2024-01-01", "--tokenizer-version", "no'quote"), "no'quote"),
        (("sql", "DROP TABLE user_tokens"), "only read"),
        (("sql", "SELECT nothing FROM nowhere"), "nowhere"),
        (("status", "--format", "xml"), "expected table or json"),
        (("status", "--ds", "2024-01-01", "--to", "2024-01-02"), "--ds with --to or --format"),
        (("tokenizer", "promote", "v9"), "not registered"),
        (("tokenizer", "roll-back"), "none was before it"),
        (("tokenizer", "shadow", "v1"), "is promoted"),
        (("tokenizer", "crosswalk", "v1", "v1"), "same version twice"),
        ((*TRAIN, "--text-model", "/nowhere"), "found no folder /nowhere"),
        ((*TRAIN, "--checkpoints", __file__), "found a file, expected a folder"),
        ((*TRAIN, "--job", "/tmp/job.json"), "--job with --processes 1: expected 2 or more"),
        ((*TRAIN, "--processes", "2", "--job", "/nowhere/job.json"), "--job /nowhere/job.json: can't be written (No such file or directory)"),
        (("tokenizer", "export-vocabulary", "v1", "--out", "/nowhere", "--seed", "-1"), "--seed"),
    ],
)
def test_bad_values_exit_20_and_name_the_value(writable: Context, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    """One message on standard error, no traceback."""
    assert cli.call([*arguments, "--root", writable.lake.root]) == 20
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("same_session")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sql", "SELECT count(*) AS days FROM (SELECT DISTINCT ds FROM user_tokens_current)"), "days"),
        (("tokenizer", "show", "v1"), "shared"),
        (("tokenizer", "list"), "v1*"),
        (("status", "--ds", "2024-01-03"), "Published"),
        (("status",), "2024-01-02"),
        (("status", "--to", "2024-01-02", "--format", "json"), '"ds": "2024-01-02"'),
        (("quarantine", "show", "--delivered-ds", "2024-01-02"), "null:user_id"),
        (("quarantine", "show", "--delivered-ds", "2024-01-02", "--source", "app", "--rows", "2"), "raw rows"),
        (("ddl",), "CREATE TABLE IF NOT EXISTS `user_tokens`"),
        (("catalog", "show"), "mini_program"),
    ],
)
def test_questions_are_answered(published: Context, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    """Exit 0, and the answer on standard output."""
    root = [] if arguments[0] == "catalog" else ["--root", published.lake.root]
    assert cli.call([*arguments, *root]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.usefixtures("same_session")
def test_the_cutoff_of_a_whole_day_is_its_features(ready: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that came late belong to a day that is run at once too."""
    ran: list[tuple[str, tuple[object, ...]]] = []
    for stage in DAILY_STAGES:
        monkeypatch.setattr(f"jobs.{stage}.run", lambda _, *given, stage=stage, force: ran.append((stage, given)))
    assert cli.call(["run-day", "--ds", "2024-01-01", "--cutoff", "2024-02-01T08:00:00+08:00", "--tokenizer-version", "v1", "--root", ready.lake.root]) == 0
    day = Days(date(2024, 1, 1), date(2024, 1, 1))
    expected = [(day,), (day, datetime(2024, 2, 1, tzinfo=UTC)), *([(day, "v1")] * 3)]
    assert ran == list(zip(DAILY_STAGES, expected, strict=True))


@pytest.mark.usefixtures("same_session")
def test_a_report_is_written(published: Context, tmp_path: Path) -> None:
    """One file, by default the promoted tokenizer's day."""
    out = tmp_path / "day.html"
    assert cli.call(["report", "--ds", "2024-01-03", "--out", str(out), "--root", published.lake.root]) == 0
    assert "<html" in out.read_text(encoding="utf-8")


def test_an_unknown_error_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is swallowed: it reaches the interpreter, which exits 1."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("jobs.show_catalog.checked", broken)
    with pytest.raises(ZeroDivisionError):
        cli.call(["catalog", "check", "/nowhere"])


def test_a_setting_must_be_a_pair() -> None:
    """`--conf key` without a value is refused by name."""
    with pytest.raises(cli_options.BadInput, match=r"--conf spark\.x: expected key=value"):
        cli_options.settings(["spark.x"])


def last_event(path: Path) -> dict[str, object]:
    event: dict[str, object] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    return event


@pytest.mark.usefixtures("same_session")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("status", "--ds", "2024-01-03"), 0),
        (("publish", "--ds", "2024-01-09"), 10),
        (("build", "--ds", "yesterday"), 20),
        (("tokenizer", "show", "v9"), 20),
        (("report", "--ds", "2024-01-03", "--out", "/dev/null/day.html"), 30),
    ],
)
def test_a_command_s_exit_code_is_the_one_that_its_log_says(writable: Context, tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    """Each code of the table in docs/operations.md comes out of a command."""
    log = tmp_path / "events.jsonl"
    assert cli.call([*arguments, "--root", writable.lake.root, "--log", str(log)]) == code
    ended = last_event(log)
    assert (ended["event"], ended["exit_code"], "error" in ended) == ("command_ended", code, code != 0)


BROKEN = "from jobs import cli, show_catalog\nshow_catalog.checked = lambda folder: 1 / 0\ncli.main()"


@pytest.mark.parametrize(
    ("start", "arguments", "code", "said"),
    [
        (("-m", "jobs.cli"), ("catalog", "show"), 0, ""),
        (("-m", "jobs.cli"), ("catalog", "check", "/nowhere"), 20, "found nothing there"),
        (("-m", "jobs.cli"), ("build", "--nonsense"), 20, "No such option"),
        (("-c", BROKEN), ("catalog", "show"), 1, "ZeroDivisionError"),
    ],
)
def test_a_process_ends_with_the_code(tmp_path: Path, start: tuple[str, ...], arguments: tuple[str, ...], code: int, said: str) -> None:
    """As a scheduler sees it; of a bug the log has the type alone, and standard error the traceback."""
    log = tmp_path / "events.jsonl"
    ended = subprocess.run([sys.executable, *start, *arguments], env=os.environ | {"U2QT_LOG": str(log)}, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    if said != "No such option":  # wrong arguments name no command yet
        assert last_event(log)["exit_code"] == code
    if code == 1:
        assert last_event(log)["error"] == "ZeroDivisionError"


def test_a_log_that_can_t_be_written_stops_a_process_before_its_work(tmp_path: Path) -> None:
    """Exit 30, one message, and nothing else on standard error."""
    log = tmp_path / "nowhere" / "events.jsonl"
    command = [sys.executable, "-m", "jobs.cli", "sql", "SELECT 1", "--root", str(tmp_path / "lake"), "--log", str(log)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 30
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"u2qt: --log {log}: can't be written (No such file or directory)")
    assert not (tmp_path / "lake").exists()


def test_the_documented_codes_are_those_of_the_errors() -> None:
    """docs/operations.md has one row per code."""
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.split("| exit code |", 1)[1].split("\n\n", 1)[0]
    documented = {int(row.split("|")[1]) for row in table.splitlines()[2:]}
    assert documented == {0, 1, INTERRUPTED, *(error.exit_code for error in (GateRefused, BadInput, Infrastructure))}
