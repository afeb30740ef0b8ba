"""u2qt_train, run by Airflow with a command that only writes down its arguments."""

import pytest
from airflow_processes import FakeRun

TRAINED = "[train][--from][2024-01-01][--to][2024-01-02][--tokenizer-version][v2][--size][tiny]"


def test_a_version_is_trained_and_not_promoted(runs: dict[str, FakeRun]) -> None:
    """Promotion is asked for or does not happen; the run is a success either way."""
    run = runs["train"]
    assert run.calls == [TRAINED]
    assert run.state == "success"
    assert run.tasks["promote_tokenizer"]["state"] == "skipped"


def test_a_version_is_promoted_when_asked(runs: dict[str, FakeRun]) -> None:
    """After training, under the same name."""
    run = runs["train and promote"]
    assert run.calls == [TRAINED, "[tokenizer][promote][v2][--reason][u2qt_train]"]
    assert run.state == "success"


def test_failed_training_promotes_nothing(runs: dict[str, FakeRun]) -> None:
    """An older version of that name is not promoted in its place."""
    run = runs["failed training"]
    assert run.calls == [TRAINED]
    assert run.state == "failed"
    assert run.tasks["train_tokenizer"] == {"state": "failed", "tries": 1}


@pytest.mark.parametrize(("name", "parameter"), [("shell as version", "tokenizer_version"), ("training without days", "from")])
def test_wrong_parameters_are_refused(runs: dict[str, FakeRun], name: str, parameter: str) -> None:
    """Before any task, by the parameter's name."""
    assert f"ParamValidationError: Invalid input for param {parameter}" in (runs[name].refused or "")
    assert runs[name].calls == []
