"""Features to figures: fits both models per split, measures, compares. Pure: arrays in, an `Evaluation` out.

N label rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jobs.evaluation_metrics import Interval, Measured, interval, lift_kept, measure, person_draws
from jobs.evaluation_models import MODELS, control_probe, out_of_split_scores
from jobs.evaluation_splits import Split

Ints = NDArray[np.int64]
SHUFFLES = 5
KINDS = ("tokens", "decoded")  # what is held against floats
TOO_GOOD = 0.99  # AUC of behaviour that no honest feature of ours has reached


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One feature set read by one model."""

    features: str
    model: str
    auc: Interval
    ks: Interval

    @property
    def too_good(self) -> bool:
        """Whether a feature probably holds the outcome itself."""
        return self.auc.value >= TOO_GOOD


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """The linear probe on labels shuffled a few times: its interval should hold .5."""

    features: str
    auc: Interval

    @property
    def passed(self) -> bool:
        return self.auc.holds(0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """(AUC of `features` - .5) / (AUC of the version's floats - .5); `lift` is None where the floats may predict nothing."""

    features: str
    model: str
    lift: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """AUC of `features` less AUC of `than`, on the same draws."""

    features: str
    than: str
    model: str
    auc: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything that was measured."""

    rows: int
    positive: int
    persons: int
    splits: tuple[tuple[int, int], ...]  # rows of train and test
    figures: tuple[Figures, ...]
    kept: tuple[Kept, ...]
    differences: tuple[Difference, ...]
    controls: tuple[Control, ...]
    about: Mapping[str, Any]  # the question: options, versions, counts of labels

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        figures = [asdict(f) | {"too_good": f.too_good} for f in self.figures]
        return asdict(self) | {"figures": figures, "controls": [asdict(c) | {"passed": c.passed} for c in self.controls]}


def evaluate(
    features: Mapping[str, Any], labels: Ints, persons: Ints, splits: Sequence[Split], *, models: Sequence[str], seed: int, about: Mapping[str, Any]
) -> Evaluation:
    """`features` by name: `tokens V`, `decoded V` and `floats V` per version, and `counts`; the first version is the one compared with the others."""
    draws = person_draws(persons, seed=seed)
    measured = {
        (name, model): measure(out_of_split_scores(values, labels, persons, splits, MODELS[model]), labels, persons, splits, draws)
        for name, values in features.items()
        for model in models
    }
    return Evaluation(
        rows=len(labels),
        positive=int(labels.sum()),
        persons=len(np.unique(persons)),
        splits=tuple((len(s.train), len(s.test)) for s in splits),
        figures=tuple(Figures(features=name, model=model, auc=interval(m.auc), ks=interval(m.ks)) for (name, model), m in measured.items()),
        kept=_kept(measured),
        differences=_differences(measured),
        controls=tuple(shuffled_controls(features, labels, persons, splits, seed=seed)),
        about=about,
    )


def shuffled_controls(features: Mapping[str, Any], labels: Ints, persons: Ints, splits: Sequence[Split], *, seed: int) -> list[Control]:
    """What is left to predict when labels are dealt out anew: the evaluation's own fault. The interval is that of one
    more shuffle (Student's t), as two shuffles of one data set differ by more than a draw of persons shows."""
    random = np.random.default_rng(seed)
    shuffles = [shuffled(labels, splits, random) for _ in range(SHUFFLES)]
    everyone, model = person_draws(persons, draws=0, seed=seed), control_probe
    controls = []
    for name, values in features.items():
        found = [measure(out_of_split_scores(values, y, persons, splits, model), y, persons, splits, everyone).auc[0] for y in shuffles]
        half = stats.t.ppf(0.975, SHUFFLES - 1) * np.std(found, ddof=1) * np.sqrt(1 + 1 / SHUFFLES)
        controls.append(Control(features=name, auc=Interval(value=float(np.mean(found)), low=float(np.mean(found) - half), high=float(np.mean(found) + half))))
    return controls


def shuffled(labels: Ints, splits: Sequence[Split], random: np.random.Generator) -> Ints:
    """Within each test part, and within the rows of none, so that every part keeps both classes."""
    dealt = labels.copy()
    never_tested = np.setdiff1d(np.arange(len(labels)), np.concatenate([s.test for s in splits]))
    for rows in (*(s.test for s in splits), never_tested):
        dealt[rows] = random.permutation(dealt[rows])
    return dealt


def _kept(measured: Mapping[tuple[str, str], Measured]) -> tuple[Kept, ...]:
    found = []
    for (name, model), m in measured.items():
        kind, _, version = name.partition(" ")
        if kind in KINDS:
            found.append(Kept(features=name, model=model, lift=lift_kept(m.auc, measured[f"floats {version}", model].auc)))
    return tuple(found)


def _differences(measured: Mapping[tuple[str, str], Measured]) -> tuple[Difference, ...]:
    """The first version's tokens less every other version's, and less counts; the same for its decoded codes."""
    names = list(dict.fromkeys(name for name, _ in measured))
    found = []
    for kind in KINDS:
        first, *others = [name for name in names if name.startswith(f"{kind} ")]
        for than in (*others, "counts"):
            for model in dict.fromkeys(model for _, model in measured):
                gap = measured[first, model].auc - measured[than, model].auc
                found.append(Difference(features=first, than=than, model=model, auc=interval(gap)))
    return tuple(found)
