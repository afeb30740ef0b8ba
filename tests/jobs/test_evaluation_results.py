"""Models and the whole of the figures on synthetic features: what is there is found, what is not there is not."""

import sys
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import sparse

from jobs.errors import Infrastructure
from jobs.evaluation_metrics import Interval, measure, person_draws
from jobs.evaluation_models import MODELS, out_of_split_scores, require_installed
from jobs.evaluation_results import Control, Evaluation, evaluate, shuffled_controls
from jobs.evaluation_splits import Split, person_folds
from jobs.show_evaluation import render


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Floats know the label with noise; the tokens are their signs, a coarse code; counts are noise."""
    random = np.random.default_rng(3)
    floats = random.normal(size=(400, 4))
    labels = (floats[:, 0] + 0.5 * random.normal(size=400) > 0).astype(np.int64)
    persons = np.arange(400)
    coarse = np.sign(floats)
    features: Mapping[str, Any] = {
        "tokens a": sparse.csr_matrix(np.concatenate([coarse > 0, coarse < 0], axis=1).astype(np.float64)),
        "decoded a": coarse,
        "floats a": floats,
        "tokens b": sparse.csr_matrix(coarse[:, 1:] > 0).astype(np.float64),
        "decoded b": coarse[:, 1:],
        "floats b": floats,
        "counts": random.normal(size=(400, 3)),
    }
    splits = person_folds(persons, labels, folds=5, seed=0)
    return evaluate(features, labels, persons, splits, models=tuple(MODELS), seed=0, about={"labels": "synthetic"})


def test_signal_is_found_and_noise_is_not(evaluation: Evaluation) -> None:
    """By both models."""
    for figures in evaluation.figures:
        if figures.features in ("floats a", "tokens a", "decoded a"):
            assert figures.auc.low > 0.75, figures
        if figures.features == "counts":
            assert figures.auc.low < 0.54, figures


def test_a_coarse_code_keeps_part_of_the_lift_and_a_useless_one_none(evaluation: Evaluation) -> None:
    """Signs keep most, but not all, of what the numbers know; codes without the one column that matters keep nothing."""
    kept = {(k.features, k.model): k.lift for k in evaluation.kept}
    assert set(kept) == {(f"{kind} {version}", model) for kind in ("tokens", "decoded") for version in "ab" for model in MODELS}
    for kind in ("tokens", "decoded"):
        of_a, of_b = kept[f"{kind} a", "linear"], kept[f"{kind} b", "linear"]
        assert of_a is not None
        assert of_b is not None
        assert 0.7 < of_a.value < 1
        assert of_b.value < 0.2


def test_the_first_version_is_held_against_the_others_and_counts(evaluation: Evaluation) -> None:
    """Paired differences, with the right sign."""
    found = {(d.features, d.than, d.model): d.auc for d in evaluation.differences}
    for than in ("tokens b", "counts"):
        assert found["tokens a", than, "linear"].low > 0.2


def test_shuffled_labels_predict_nothing(evaluation: Evaluation) -> None:
    """The control of every feature set holds .5."""
    assert len(evaluation.controls) == 7
    assert all(control.passed for control in evaluation.controls), evaluation.controls


def test_a_planted_future_column_is_seen() -> None:
    """Noise with the outcome beside it: the figure is marked, in what is printed and written; the noise alone is not."""
    random = np.random.default_rng(1)
    labels, persons, noise = np.arange(200) % 2, np.arange(200), random.normal(size=(200, 3))
    outcome = labels[:, None] + 0.1 * random.normal(size=(200, 1))
    features = {"tokens a": noise, "decoded a": noise, "floats a": noise, "counts": np.concatenate([noise, outcome], axis=1)}
    folds = person_folds(persons, labels, folds=5, seed=0)
    found = evaluate(features, labels, persons, folds, models=("linear",), seed=0, about={})
    assert [f.features for f in found.figures if f.too_good] == ["counts"]
    assert [f["too_good"] for f in found.to_plain()["figures"]] == [False, False, False, True]
    console = Console(width=120, record=True, file=StringIO())
    console.print(render(found))
    assert "TOO GOOD: AUC of 0.99 or more" in console.export_text()


def test_grouping_by_person_keeps_a_name_from_being_recalled() -> None:
    """A column per person, labels dealt to persons: recalled where a person is on both sides, worth nothing in folds of persons."""
    persons = np.repeat(np.arange(60), 16)
    named = np.eye(60)[persons]
    leaking = tuple(Split(train=np.flatnonzero(np.arange(960) % 4 != k), test=np.flatnonzero(np.arange(960) % 4 == k)) for k in range(4))
    by_person = np.random.default_rng(0).integers(0, 2, 60)[persons]
    found = out_of_split_scores(named, by_person, persons, leaking, MODELS["linear"])
    everyone = person_draws(persons, draws=20, seed=0)
    assert measure(found, by_person, persons, leaking, everyone).auc[0] > 0.9
    honest = person_folds(persons, by_person, folds=5, seed=0)
    found = out_of_split_scores(named, by_person, persons, honest, MODELS["linear"])
    assert measure(found, by_person, persons, honest, everyone).auc[0] == pytest.approx(0.5, abs=0.1)


def test_features_that_too_few_rows_have_say_nothing_of_anybody() -> None:
    """Every column is left out of the probe: all scores are equal."""
    labels = np.arange(8) % 2
    assert set(MODELS["linear"](np.eye(8), labels, np.arange(8), np.eye(8))) == {0.0}


def test_a_feature_of_rounding_alone_is_no_feature() -> None:
    """Divided by its deviation it would be infinite."""
    features = np.concatenate([np.eye(2, dtype=np.float32)[np.arange(24) % 2], np.full((24, 1), 1e-45, np.float32) * (np.arange(24) % 3 > 0)[:, None]], axis=1)
    scores = MODELS["linear"](features, np.arange(24) % 2, np.arange(24), features)
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]


def test_a_control_that_is_off_says_so() -> None:
    """Its interval must hold .5."""
    assert not Control(features="tokens a", auc=Interval(value=0.6, low=0.55, high=0.65)).passed
    assert Control(features="tokens a", auc=Interval(value=0.52, low=0.49, high=0.55)).passed


def test_a_split_that_lets_people_be_recalled_fails_the_control() -> None:
    """Rows that are learned from and tried: a column per person recalls its shuffled labels. Folds of persons don't, on the same rows."""
    persons = np.repeat(np.arange(40), 8)
    named, labels = np.eye(40)[persons], np.random.default_rng(0).integers(0, 2, 320)
    leaking = (Split(train=np.arange(320), test=np.arange(320)),)
    (off,) = shuffled_controls({"tokens a": named}, labels, persons, leaking, seed=0)
    assert not off.passed
    assert off.auc.value > 0.6
    (honest,) = shuffled_controls({"tokens a": named}, labels, persons, person_folds(persons, labels, folds=5, seed=0), seed=0)
    assert honest.passed


def test_without_lightgbm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear probe needs nothing more."""
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    require_installed(["linear"])
    with pytest.raises(Infrastructure, match=r"pip install 'u2qt\[eval\]'"):
        require_installed(["linear", "boosting"])


@pytest.mark.parametrize("model", sorted(MODELS))
def test_scores_repeat_and_are_never_of_rows_learned_from(model: str) -> None:
    """The same seed gives the same scores; a row whose label is turned round keeps its own score."""
    random = np.random.default_rng(0)
    features, labels, persons = random.normal(size=(200, 3)), random.integers(0, 2, 200), np.arange(200)
    splits = person_folds(persons, labels, folds=5, seed=0)
    scores = out_of_split_scores(features, labels, persons, splits, MODELS[model])
    assert np.array_equal(scores, out_of_split_scores(features, labels, persons, splits, MODELS[model]))
    turned = labels.copy()
    turned[splits[0].test] = 1 - turned[splits[0].test]
    again = out_of_split_scores(features, turned, persons, splits, MODELS[model])
    assert np.array_equal(scores[splits[0].test], again[splits[0].test])
