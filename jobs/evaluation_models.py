"""The two models that read features: a linear probe and gradient boosting. Pure: arrays in, scores out.

N rows, F features; features are dense, or sparse (CSR) and of one scale, for tokens. Both models are deterministic for one seed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from jobs.errors import Infrastructure
from jobs.evaluation_splits import Split

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scorer = Callable[[Any, Ints, Ints, Any], Floats]  # features, labels and persons to learn from, features to score
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # inverse regularization C of the probe on dense features, which are standardised
SHARE_STRENGTHS = (0.1, 1.0, 10.0)  # on sparse features, the shares of tokens, which are not: a rare code would become loud
CONTROL_STRENGTH, CONTROL_SHARE_STRENGTH = 1e-3, 1.0  # of the shuffled control, which needs no choice
MIN_ROWS = 5  # a feature that fewer training rows have is left out of the probe
NOTHING = 1e-20  # in absolute value a feature that a row has not: rounding, whose deviation can't be divided by
INNER_FOLDS = 3
ROUNDS = 150
BOOSTING = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


def linear_probe(features: Any, labels: Ints, persons: Ints, tried: Any) -> Floats:
    """Logistic regression; C is chosen on a third of the training persons, then fitted on all. Dense features are standardised."""
    inner = persons % INNER_FOLDS == 0
    if min(_classes(labels[inner]), _classes(labels[~inner])) < 2:
        return control_probe(features, labels, persons, tried)
    strengths = SHARE_STRENGTHS if sparse.issparse(features) else STRENGTHS
    found = [probe_with(c, features[~inner], labels[~inner], features[inner]) for c in strengths]
    best = int(np.argmax([roc_auc_score(labels[inner], scores) for scores in found]))
    return probe_with(strengths[best], features, labels, tried)


def control_probe(features: Any, labels: Ints, persons: Ints, tried: Any) -> Floats:
    """The same with a fixed C."""
    return probe_with(CONTROL_SHARE_STRENGTH if sparse.issparse(features) else CONTROL_STRENGTH, features, labels, tried)


def probe_with(strength: float, features: Any, labels: Ints, tried: Any) -> Floats:
    used = np.flatnonzero(np.asarray((abs(features) > NOTHING).sum(axis=0)).ravel() >= MIN_ROWS)
    if not used.size:
        return np.zeros(tried.shape[0])  # nothing to go on: everybody alike
    features, tried = features[:, used], tried[:, used]
    if not sparse.issparse(features):
        scaler = StandardScaler().fit(features)
        features, tried = scaler.transform(features), scaler.transform(tried)
    model = LogisticRegression(C=strength, max_iter=2000, tol=1e-3).fit(features, labels)
    return np.asarray(model.decision_function(tried), np.float64)


def boosting(features: Any, labels: Ints, persons: Ints, tried: Any) -> Floats:
    """150 small trees of LightGBM with fixed settings."""
    lightgbm = _lightgbm()
    trained = lightgbm.train({**BOOSTING, "seed": 0}, lightgbm.Dataset(features, labels), num_boost_round=ROUNDS)
    return np.asarray(trained.predict(tried), np.float64)


MODELS: dict[str, Scorer] = {"linear": linear_probe, "boosting": boosting}


def require_installed(models: Sequence[str]) -> None:
    """Raises `Infrastructure` where a model's library is missing: before the long work, not after it."""
    if "boosting" in models:
        _lightgbm()


def out_of_split_scores(features: Any, labels: Ints, persons: Ints, splits: Sequence[Split], model: Scorer) -> Floats:
    """(N,) scores of rows that the scoring model never saw; NaN where a row is in no test part."""
    scores = np.full(len(labels), np.nan)
    for split in splits:
        scores[split.test] = model(features[split.train], labels[split.train], persons[split.train], features[split.test])
    return scores


def _classes(labels: Ints) -> int:
    return len(np.unique(labels))


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise Infrastructure("lightgbm: not installed, expected it for --model boosting; run `pip install 'u2qt[eval]'`, or give --model linear") from None
    return lightgbm
