"""Training: the same twice, never NaN on poor data, and an error that held-out users vouch for."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from u2qt_model import FeatureBatch, FeatureLayout, Tokenizer, TokenizerConfig
from u2qt_model.errors import ConfigError, TrainingError
from u2qt_model.presets import demo, tiny
from u2qt_model.progress import Progress
from u2qt_model.threads import fixed_threads
from u2qt_model.train import train

Columns = dict[str, np.ndarray[Any, Any]]
MakeColumns = Callable[..., Columns]
MakeBatch = Callable[..., FeatureBatch]
Open = Callable[[], Iterator[FeatureBatch]]


def _without(columns: Columns, *sources: str) -> Columns:
    return columns | {f"{source}_count": np.zeros(len(columns["user_id"]), np.int32) for source in sources}


def _trained(layout: FeatureLayout, batches: list[FeatureBatch], config: TokenizerConfig | None = None) -> Tokenizer:
    """A tokenizer whose metrics, codes and vectors have been looked at: nothing in them is NaN."""
    found = train(layout, config or tiny(), lambda: iter(batches))
    json.dumps(dict(found.metrics), allow_nan=False)
    assert all(tensor.isfinite().all() for tensor in found.weights.values())
    codes, margins = found.encode_with_margins(batches[0])
    assert np.isfinite(margins).all()
    assert np.isfinite(found.decode(codes)).all()
    return found


@pytest.mark.parametrize("quantizer", ["residual", "rq_kmeans"])
def test_seed_decides_the_fingerprint(layout: FeatureLayout, open_stream: Open, quantizer: str) -> None:
    """The same seed twice is one tokenizer; another seed is another, in its weights too."""
    first, again, other = (train(layout, tiny(seed=seed, quantizer=quantizer), open_stream) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert not first.weights["quantizer.codebooks.shared"].equal(other.weights["quantizer.codebooks.shared"])
    measured = ("held_out_error_by_epoch", "sources", "codebooks")
    assert {key: first.metrics[key] for key in measured} == {key: again.metrics[key] for key in measured}


def test_fingerprint_does_not_depend_on_the_threads_around(layout: FeatureLayout, open_stream: Open, tokenizer: Tokenizer) -> None:
    """Neither torch's nor BLAS's: the configuration's number holds."""
    with fixed_threads(2), threadpool_limits(2):
        assert train(layout, tiny(), open_stream).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("which", ["tokenizer", "baseline"])
def test_error_falls_level_by_level(request: pytest.FixtureRequest, which: str) -> None:
    """Every source's held-out error is below the training mean's (1), and lower after each level."""
    metrics = request.getfixturevalue(which).metrics
    for source in metrics["sources"].values():
        errors = source["relative_squared_error"]
        assert errors[0] < 1
        assert all(after < before for before, after in pairwise(errors))
    assert metrics["held_out_error"] < 0.2


def test_metrics_record_the_held_out_error(tokenizer: Tokenizer) -> None:
    """One error for the start and one per epoch; the kept weights are those of the lowest."""
    metrics = tokenizer.metrics
    errors = metrics["held_out_error_by_epoch"]
    assert len(errors) == 1 + tokenizer.config.training.epochs
    assert metrics["held_out_error"] == min(errors) == errors[metrics["kept_epoch"]]
    assert metrics["users"] == 900
    assert 40 < metrics["sources"]["profile"]["held_out_slices"] < 150
    assert metrics["sources"]["profile"]["slices"] == 900
    assert [(book["codebook"], book["level"]) for book in metrics["codebooks"][:3]] == [("shared", 1), ("shared", 2), ("bill", 3)]
    assert {"first_pass", "projection", "start", "joint_rounds", "epochs"} == set(metrics["seconds"])


def test_networks_do_not_lose_to_the_baseline(tokenizer: Tokenizer, baseline: Tokenizer) -> None:
    """Own levels and epochs are worth their weights."""
    assert tokenizer.metrics["held_out_error"] < baseline.metrics["held_out_error"]


def test_progress_arrives(layout: FeatureLayout, open_stream: Open) -> None:
    """After every batch of the first pass, after the start, after every batch of each epoch."""
    seen: list[Progress] = []
    found = train(layout, tiny(), open_stream, seen.append)
    assert [(step.phase, step.epoch, step.users) for step in seen] == [
        *(("first_pass", 0, users) for users in (300, 600, 900)),
        ("start", 0, 900),
        *(("epoch", epoch, users) for epoch in (1, 2) for users in (300, 600, 900)),
    ]
    assert seen[3].error == found.metrics["held_out_error_by_epoch"][0]
    assert all(step.error is not None and 0 < step.error < 1 and step.usage is not None and 0 < step.usage <= 1 for step in seen[4:])
    assert all(step.users_per_second > 0 for step in seen if step.phase != "start")


def test_source_may_be_absent_from_a_batch(layout: FeatureLayout, make_columns: MakeColumns) -> None:
    """The batches that have it train it."""
    columns = [make_columns(200, seed) for seed in range(3)]
    columns[1] = _without(columns[1], "bill", "profile")
    found = _trained(layout, [FeatureBatch.from_columns(part, layout) for part in columns])
    assert found.untrained_sources == ()


@pytest.mark.parametrize("absent", [("bill",), ("profile",), ("bill", "search_2")])
@pytest.mark.parametrize("quantizer", ["residual", "rq_kmeans"])
def test_source_may_be_absent_from_all_data(layout: FeatureLayout, make_columns: MakeColumns, absent: tuple[str, ...], quantizer: str) -> None:
    """It stays untrained, and the others train as ever."""
    batch = FeatureBatch.from_columns(_without(make_columns(200), *absent), layout)
    found = _trained(layout, [batch], tiny(quantizer=quantizer))
    assert found.untrained_sources == absent
    assert found.metrics["sources"][absent[0]]["slices"] == 0
    assert found.metrics["held_out_error"] < 1


@pytest.mark.parametrize("seed", range(4))
def test_one_user_is_enough(layout: FeatureLayout, make_batch: MakeBatch, seed: int) -> None:
    """Held out or not: a single user is trained on."""
    config = replace(tiny(), training=replace(tiny().training, held_out_share=0.99 * (seed % 2)))
    found = _trained(layout, [make_batch(1, seed)], config)
    assert found.metrics["users"] == 1
    assert "profile" not in found.untrained_sources
    assert found.metrics["sources"]["profile"]["held_out_slices"] == 0


def test_batches_of_one_user_train(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """Row groups may be that small."""
    found = _trained(layout, [make_batch(1, seed) for seed in range(40)])
    assert found.metrics["users"] == 40


def test_one_held_out_slice_is_not_exact(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """The error is relative to the training mean: a slice's own mean would make it 0."""
    found = _trained(layout, [make_batch(19, 5)])
    profile = found.metrics["sources"]["profile"]
    assert profile["held_out_slices"] == 1
    assert profile["relative_squared_error"][0] > 0
    assert found.metrics["held_out_error"] > 0


@pytest.mark.parametrize("quantizer", ["residual", "rq_kmeans"])
def test_more_codes_than_slices_train(layout: FeatureLayout, make_batch: MakeBatch, quantizer: str) -> None:
    """Spare codes stay closed: they count as dead and are never given out."""
    config = tiny(quantizer=quantizer)
    config = replace(config, quantizer=replace(config.quantizer, codebook_size=512))
    found = _trained(layout, [make_batch(20)], config)
    codes = found.encode(make_batch(200, 1))
    opened = found.weights["quantizer.codebooks.shared_open"][0].sum()
    assert opened <= 60
    assert len(np.unique(codes[:, :, 0])) - 1 <= opened
    assert found.metrics["codebooks"][0]["dead_codes"] >= 512 - 60


def test_few_distinct_texts_train(layout: FeatureLayout, make_columns: MakeColumns) -> None:
    """Covariances of low rank, on which some eigenvalue solvers don't converge."""
    for kinds in (1, 2, 3, 5):
        columns = make_columns(60, kinds)
        columns["bill_text"][:] = [b"red; apple %d green" % (i % kinds) for i in range(60)]
        columns["bill_count"][:] = 1
        found = _trained(layout, [FeatureBatch.from_columns(columns, layout)])
        assert len(np.unique(found.encode(FeatureBatch.from_columns(columns, layout))[:, 0], axis=0)) == kinds


def test_rare_text_outside_the_sample_trains(layout: FeatureLayout, make_columns: MakeColumns) -> None:
    """All slices vary, those in the reservoir don't."""
    columns = make_columns(3000)
    columns["bill_text"][:] = [b"same"] * 2999 + [b"other words"]
    columns["bill_count"][:] = 1
    config = replace(tiny(), training=replace(tiny().training, slices_per_code=1, epochs=1))
    _trained(layout, [FeatureBatch.from_columns(columns, layout)], config)


def test_extreme_values_train(layout: FeatureLayout, make_columns: MakeColumns) -> None:
    """The ends of float32, zeros and constants."""
    columns = make_columns(100)
    columns["profile_values"][:, 0] = np.finfo(np.float32).max
    columns["profile_values"][::2, 1] = np.finfo(np.float32).min
    columns["profile_values"][:, 2] = 0
    _trained(layout, [FeatureBatch.from_columns(columns, layout)])


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_stream_without_slices_is_refused(layout: FeatureLayout, make_columns: MakeColumns, batches: int) -> None:
    """No batch, empty batches, or users without any source."""
    empty = FeatureBatch.from_columns({name: column[:0] for name, column in make_columns(1).items()}, layout)
    with pytest.raises(TrainingError, match="found 0 user-days and no slice in any source"):
        train(layout, tiny(), lambda: iter([empty] * batches))
    absent = FeatureBatch.from_columns(_without(make_columns(5), "bill", "search_2", "profile"), layout)
    with pytest.raises(TrainingError, match=f"found {5 * (batches + 1)} user-days and no slice"):
        train(layout, tiny(), lambda: iter([absent] * (batches + 1)))


def test_held_out_users_need_ids(layout: FeatureLayout, make_columns: MakeColumns) -> None:
    """Without ids only a share of 0 trains; the errors are then those of the training sample."""
    columns = make_columns(100)
    del columns["user_id"]
    batch = FeatureBatch.from_columns(columns, layout)
    with pytest.raises(TrainingError, match="user_id: column missing"):
        train(layout, tiny(), lambda: iter([batch]))
    found = _trained(layout, [batch], replace(tiny(), training=replace(tiny().training, held_out_share=0.0)))
    assert found.metrics["sources"]["profile"]["held_out_slices"] == 0
    assert found.metrics["held_out_error"] > 0


def test_steps_larger_than_what_is_embedded_at_a_time_are_refused(layout: FeatureLayout, open_stream: Open) -> None:
    """They would silently be smaller."""
    config = replace(tiny(), training=replace(tiny().training, batch_users=4097))
    with pytest.raises(ConfigError, match=r"training\.batch_users: found 4097, expected at most 4096 for each process"):
        train(layout, config, open_stream)


def test_divergence_is_refused(layout: FeatureLayout, open_stream: Open) -> None:
    """An error that isn't finite ends training."""
    wild = replace(tiny(), quantizer=replace(tiny().quantizer, commitment=1e300))
    with pytest.raises(TrainingError, match="epoch 1: found error nan, expected a finite one"):
        train(layout, wild, open_stream)


def test_bad_epochs_lose_to_the_start(layout: FeatureLayout, open_stream: Open) -> None:
    """The weights are those of a run without epochs, which opens the stream once."""
    opened = []

    def counted() -> Iterator[FeatureBatch]:
        opened.append(1)
        return open_stream()

    fast, none = (replace(tiny(), training=replace(tiny().training, **change)) for change in ({"learning_rate": 0.9}, {"epochs": 0}))
    found, start = train(layout, fast, open_stream), train(layout, none, counted)
    assert found.metrics["kept_epoch"] == start.metrics["kept_epoch"] == 0
    assert found.metrics["held_out_error_by_epoch"][1] > found.metrics["held_out_error"] == start.metrics["held_out_error"]
    assert all(start.weights[name].equal(tensor) for name, tensor in found.weights.items())
    assert len(opened) == 1


def test_larger_run_trains(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """The demo's configuration, one epoch: most of its codes are in use."""
    config = replace(demo(), training=replace(demo().training, epochs=1))
    found = _trained(layout, [make_batch(600, seed) for seed in range(2)], config)
    assert found.metrics["codebooks"][0]["usage"] > 0.9
    assert found.metrics["held_out_error"] < 0.2
