"""Measures how much of what predicts a label the tokens keep, against the floats before quantization and against counts.

Reads the labels, `user_tokens`, `user_tokens_superseded`, `user_features`, the source tables, `tokenizers`, `runs`;
writes nothing but a row in `runs`. Key: one figure per feature set and model. The same question gives the same figures.
Only a sample of the labels, at most `max_labels`, is collected into Spark's driver, with one pooled row of each feature
set per label; what lies between is joined and pooled on executors, by the same point-in-time join as `join_labels`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from jobs.context import Context
from jobs.errors import BadInput
from jobs.evaluation_features import Cut, TokenFeatures, Version, count_features, float_features, token_features
from jobs.evaluation_labels import Sample, require_both_classes, sampled
from jobs.evaluation_models import MODELS, require_installed
from jobs.evaluation_results import Evaluation, evaluate
from jobs.evaluation_splits import Split, person_folds, time_splits
from jobs.label_input import naming_labels, pinned_tokens, read_labels, refuse_labels_seen_in_training
from jobs.ledger import StageRecord, record_stage
from jobs.point_in_time import ONE_DAY
from jobs.registered_tokenizers import find_registered, load_registered, ship
from schemas.source_events import source_table_name

MICROSECOND = timedelta(microseconds=1)
LONGEST_WINDOW = 3660  # days


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked of which labels."""

    labels: str  # table, .csv or Parquet
    versions: tuple[str, ...]  # the first one is compared with the others
    at: str | None = None  # column with the moment of prediction: splits by time
    as_of: datetime | None = None  # or one moment for all, where the label is a stable attribute: folds of persons
    horizon: timedelta | None = None  # with `at`: the time after which a label's outcome is known
    user: str = "user_id"
    label: str = "label"
    window_days: int = 90
    lag: timedelta = ONE_DAY
    folds: int = 5
    models: tuple[str, ...] = field(default=tuple(MODELS))
    max_labels: int = 20_000
    seed: int = 0
    allow_trained_after: bool = False

    def check(self) -> None:
        """Raises `BadInput` for settings that don't go together."""
        if (self.at is None) == (self.as_of is None):
            raise BadInput("evaluate: expected either --at COLUMN (a label about the future) or --as-of MOMENT (a stable attribute)")
        if (self.at is None) != (self.horizon is None):
            raise BadInput("evaluate: --horizon and --at go together: the time after a label's moment at which its outcome is known, such as 30d")
        if not self.versions or len(set(self.versions)) != len(self.versions):
            raise BadInput(f"--tokenizer-version: found {', '.join(self.versions) or 'none'}, expected one or more different versions")
        unknown = [model for model in self.models if model not in MODELS]
        if unknown or not self.models:
            raise BadInput(f"--model: found {', '.join(unknown) or 'none'}, expected one or more of {', '.join(MODELS)}")
        if self.seed < 0 or self.window_days > LONGEST_WINDOW:
            raise BadInput(f"evaluate: found --seed {self.seed} --window {self.window_days}, expected at least 0, and at most {LONGEST_WINDOW:,} days")
        if self.window_days < 1 or self.max_labels < 1 or self.lag < ONE_DAY or self.lag % ONE_DAY:
            raise BadInput(
                f"evaluate: found --window {self.window_days} --max-labels {self.max_labels} --lag {self.lag}, expected at least 1, 1, and whole days from 1d"
            )


def run(context: Context, question: Question, progress: Callable[[str], None] = lambda _: None) -> Evaluation:
    """Raises `BadInput` for labels that can't be evaluated, `GateRefused` when a feature knows the future."""
    question.check()
    require_installed(question.models)
    with record_stage(context, "evaluate_tokens", None) as record:
        versions = [_version(context, name) for name in question.versions]
        sample = _sample(context, question)
        cut = Cut(time_zone=context.catalog.time_zone, window_days=question.window_days, lag_days=question.lag.days)
        _splits(sample, question)  # before the long work: labels that can't be split are refused at once
        labels = sample.frame(context.spark)
        tokens = {}
        for version in versions:
            progress(f"tokens of {version.name}")
            tokens[version.name] = token_features(sample, labels, *pinned_tokens(context, version.name, record), version, cut)
        sample, features = _on_same_rows(sample, tokens, question, cut)
        labels = sample.frame(context.spark)
        record.read["user_features"] = context.lake.version("user_features")
        for version in versions:
            progress(f"floats of {version.name}")
            rows = context.lake.read("user_features", record.read["user_features"])
            features[f"floats {version.name}"] = float_features(sample, labels, rows, version, cut)
        progress("counts and sums")
        features["counts"] = count_features(context, sample, labels, _pinned_sources(context, record), cut)
        progress("models")
        record.rows |= {"labels": sample.found, "evaluated": len(sample.labels)}
        return _evaluated(sample, features, question)


def _version(context: Context, name: str) -> Version:
    registered = find_registered(context, name)
    tokenizer = load_registered(registered, context.catalog)
    return Version(name=registered.version, tokenizer=tokenizer, frozen=ship(context, registered, tokenizer.layout.source_names))


def _sample(context: Context, question: Question) -> Sample:
    """Checked labels; refused where they lie on days that a tokenizer was trained on."""
    zone = context.catalog.time_zone
    frame = read_labels(context, question.labels, question.at)
    at = question.at or question.as_of
    assert at is not None, "Question.check"
    with naming_labels(context, question.labels):
        sample = sampled(frame, name=question.labels, user=question.user, at=at, label=question.label, time_zone=zone, max_labels=question.max_labels)
    for name in question.versions if not question.allow_trained_after else ():
        through = find_registered(context, name).trained_through
        refuse_labels_seen_in_training(sample.frame(context.spark), at="at", time_zone=zone, trained_through=through, tokenizer_version=name)
    return sample


def _splits(sample: Sample, question: Question) -> tuple[Split, ...]:
    if question.horizon is None:
        return person_folds(sample.persons, sample.labels, folds=question.folds, seed=question.seed)
    return time_splits(sample.persons, sample.moments, sample.labels, splits=question.folds, horizon=question.horizon // MICROSECOND, seed=question.seed)


def _on_same_rows(sample: Sample, tokens: Mapping[str, TokenFeatures], question: Question, cut: Cut) -> tuple[Sample, dict[str, Any]]:
    """The labels that have tokens of every version, with these versions' features."""
    for name, found in tokens.items():
        if not found.has_tokens.any():
            raise BadInput(
                f"labels {question.labels}: none of {len(sample.labels)} has tokens of {name} in the {cut.window_days} days before it, expected labels after "
                f"the first published day; publish the days before the labels with `u2qt run-day --tokenizer-version {name}`, or give later labels"
            )
    both = np.flatnonzero(np.logical_and.reduce([found.has_tokens for found in tokens.values()]))
    if not len(both):
        raise BadInput(
            f"labels {question.labels}: none has tokens of all of {', '.join(tokens)}, expected the same days published for each; encode the missing ones"
        )
    features: dict[str, Any] = {}
    for name, found in tokens.items():
        features |= {f"tokens {name}": found.tokens[both], f"decoded {name}": found.decoded[both]}
    kept = sample.only(both)
    require_both_classes(kept, question.labels, question.label)
    return kept, features


def _pinned_sources(context: Context, record: StageRecord) -> dict[str, int]:
    for source in context.catalog.sources:
        table = source_table_name(source.name)
        record.read[table] = context.lake.version(table)
    return record.read


def _evaluated(sample: Sample, features: Mapping[str, Any], question: Question) -> Evaluation:
    splits = _splits(sample, question)
    about: dict[str, Any] = {key: value if isinstance(value, int | bool) else str(value) for key, value in asdict(question).items() if value is not None}
    about |= {"versions": list(question.versions), "models": list(question.models), "labels_found": sample.found}
    return evaluate(features, sample.labels, sample.persons, splits, models=question.models, seed=question.seed, about=about)
