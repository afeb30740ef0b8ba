"""The text that SQL gives is the one that Python gives, and the export's command line."""

import json
from pathlib import Path

import pytest

from jobs import create_views
from jobs.cli import call
from jobs.context import Context
from jobs.registered_tokenizers import find_registered, load_named
from u2qt_model.sequence_text import Slice, parse_sequence, sequence_text


def test_sql_and_python_give_the_same_text(published: Context) -> None:
    """For every user of three days; reading it back gives the sequence."""
    vocabulary = load_named(published, "v1").vocabulary
    create_views.run(published)
    rows = published.spark.table("user_token_sequences").select("as_of", "sequence", "text").collect()
    assert len(rows) > 30
    for row in rows:
        slices = tuple(Slice(ds=ds, source=source, codes=tuple(codes)) for ds, source, codes in row.sequence)
        assert row.text == sequence_text(slices, row.as_of, vocabulary)
        assert parse_sequence(row.text, row.as_of, vocabulary) == slices
    assert {row.text.count("<day/>") for row in rows} == {1, 2, 3}
    assert any(row.text.endswith("<day/>") for row in rows)
    assert any("<day/><day/>" in row.text.removesuffix("<day/>") for row in rows)


def test_a_version_and_its_checkpoint_are_the_same_tokenizer(published: Context) -> None:
    """A folder is taken as it is, a version as registered."""
    registered = find_registered(published, "v1")
    assert load_named(published, registered.checkpoint).fingerprint == load_named(published, "v1").fingerprint == registered.fingerprint


@pytest.fixture
def same_session(published: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Commands use the tests' session, and leave it running."""
    monkeypatch.setattr("jobs.session.build_session", lambda master, settings: published.spark)
    monkeypatch.setattr(type(published.spark), "stop", lambda self: None)
    return published


def test_the_command_exports_a_registered_version(same_session: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how many tokens; an occupied folder is bad input."""
    arguments = ["tokenizer", "export-vocabulary", "v1", "--root", same_session.lake.root, "--out", str(tmp_path / "out"), "--width", "16"]
    assert call(arguments) == 0
    described = json.loads((tmp_path / "out" / "vocabulary.json").read_text())
    assert f"{len(described)} tokens from id 0, rows of width 16" in capsys.readouterr().out
    assert call(arguments) == 20
    assert "expected a new or empty folder" in capsys.readouterr().err
