"""The command line: exit codes, messages, options. Commands that need a session are run on the `published` lakehouse."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import cli, cli_options
from jobs.context import Context


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
        (("tokenizer", "promote", "v9"), "not registered"),
        (("tokenizer", "roll-back"), "none was before it"),
        (("tokenizer", "shadow", "v1"), "is promoted"),
        (("tokenizer", "crosswalk", "v1", "v1"), "same version twice"),
        (("train", "--from", "2024-01-01", "--to", "2024-01-01", "--tokenizer-version", "t", "--text-model", "/nowhere"), "found no folder /nowhere"),
    ],
)
def test_bad_values_exit_20_and_name_the_value(published: Context, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    """One message on standard error, no traceback."""
    assert cli.call([*arguments, "--root", published.lake.root]) == 20
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
