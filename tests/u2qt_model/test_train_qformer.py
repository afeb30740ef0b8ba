"""Training a Q-Former: it learns, from training users only, the same way twice, and leaves its best weights."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from u2qt_model import FeatureBatch, FeatureLayout, TokenizerConfig
from u2qt_model.errors import TrainingError
from u2qt_model.first_pass import held_out_rows
from u2qt_model.presets import tiny
from u2qt_model.qformer import QFormer
from u2qt_model.train_qformer import QFormerState, share_of_rate, train_qformer

Columns = dict[str, np.ndarray[Any, Any]]
MakeColumns = Callable[..., Columns]
CONFIG = tiny(stage1="qformer")


@pytest.fixture(scope="module")
def planted(layout: FeatureLayout, make_columns: MakeColumns) -> list[FeatureBatch]:
    """Three batches whose events are the persona's, in every source."""
    batches = []
    for seed in range(3):
        columns = make_columns(300, seed)
        rng = np.random.default_rng(seed)
        for source in ("bill", "search_2"):
            item = columns["profile_ids"][:, :1] * 5 + rng.integers(0, 2, (300, 6))
            columns[f"{source}_event_ids"] = (item + 100 * (source == "bill")).astype(np.int32)
        batches.append(FeatureBatch.from_columns(columns, layout))
    return batches


def _trained(layout: FeatureLayout, batches: list[FeatureBatch], config: TokenizerConfig = CONFIG, **report: Any) -> tuple[QFormer, dict[str, Any]]:
    network = QFormer(layout, config)
    return network, train_qformer(network, layout, config, lambda: iter(batches), **report)


def _changed(config: TokenizerConfig, **qformer: Any) -> TokenizerConfig:
    return replace(config, qformer=replace(config.qformer, **qformer))


def test_rate_rises_and_falls_in_lines() -> None:
    """To its full height at the end of the warm-up, to 0 after the last step; without steps or warm-up no error."""
    rates = [share_of_rate(step, 10, 0.2) for step in range(11)]
    assert rates == [0.5, 1.0, 1.0, *(1 - k / 8 for k in range(1, 9))]
    assert share_of_rate(0, 10, 0.0) == 1.0
    assert share_of_rate(0, 0, 0.1) == 0.0


def test_losses_go_down(layout: FeatureLayout, planted: list[FeatureBatch]) -> None:
    """Every part does, on held-out users; other sources foretell a persona far better than chance."""
    start = _trained(layout, planted, _changed(CONFIG, epochs=0))[1]["held_out_loss"]
    network, metrics = _trained(layout, planted, _changed(CONFIG, epochs=12, learning_rate=5e-3))
    found = metrics["held_out_loss"]
    assert found["bags"] < 0.6 * start["bags"]
    assert found["values"] < 0.5 * start["values"]
    assert found["contrast"] < 0.8 * start["contrast"]
    assert len(metrics["held_out_loss_by_epoch"]) == 13
    assert min(metrics["held_out_loss_by_epoch"]) == found["total"] == metrics["held_out_loss_by_epoch"][metrics["kept_epoch"]]
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_held_out_users_are_not_learnt_from(layout: FeatureLayout, planted: list[FeatureBatch], make_columns: MakeColumns) -> None:
    """Their features may be anything: the same weights, another held-out loss."""
    mixed = []
    for seed, batch in enumerate(planted):
        held_out = held_out_rows(batch, CONFIG.training.held_out_share, CONFIG.training.seed)
        assert held_out.any()
        bill = batch.events("bill")
        assert bill.event_ids is not None
        ids = np.where(held_out[:, None, None], make_columns(300, seed + 50)["bill_event_ids"].reshape(300, 3, 2), bill.event_ids)
        mixed.append(replace(batch, slices={**batch.slices, "bill": replace(bill, event_ids=ids)}))
    config = _changed(CONFIG, epochs=1)
    (one, before), (other, after) = (_trained(layout, batches, config) for batches in (planted, mixed))
    assert before["kept_epoch"] == after["kept_epoch"] == 1
    assert all(tensor.equal(other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert before["held_out_loss"] != after["held_out_loss"]


def test_same_seed_gives_the_same_weights(layout: FeatureLayout, planted: list[FeatureBatch]) -> None:
    """Another seed gives others."""
    config = _changed(CONFIG, epochs=1)
    (first, _), (again, _), (other, _) = (_trained(layout, planted, replace(config, training=replace(config.training, seed=seed))) for seed in (0, 0, 1))
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert not first.queries.equal(other.queries)


def test_the_best_weights_are_left(layout: FeatureLayout, planted: list[FeatureBatch]) -> None:
    """A run that only gets worse keeps its start."""
    config = replace(CONFIG, qformer=replace(CONFIG.qformer, learning_rate=0.9, epochs=2, warm_up=0.0))
    network, metrics = _trained(layout, planted, config)
    assert metrics["kept_epoch"] == 0
    assert network.queries.equal(QFormer(layout, config).queries)


def test_loss_that_is_not_finite_is_refused(layout: FeatureLayout, planted: list[FeatureBatch], monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the setting to lower."""
    step = torch.optim.AdamW.step

    def spoilt(self: torch.optim.AdamW, *args: Any) -> Any:
        self.param_groups[0]["params"][0].data.fill_(torch.nan)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoilt)
    with pytest.raises(TrainingError, match=r"qformer, epoch 1: found loss nan, expected a finite one; lower qformer\.learning_rate"):
        _trained(layout, planted)


def test_progress_arrives(layout: FeatureLayout, planted: list[FeatureBatch]) -> None:
    """After every batch, and at the end, of the pass for the moments and of each epoch, with the epoch's loss so far."""
    seen: list[QFormerState] = []
    _trained(layout, planted, _changed(CONFIG, epochs=2), report=seen.append)
    assert [(state.epoch, state.users) for state in seen] == [(epoch, users) for epoch in range(3) for users in (300, 600, 900, 900)]
    assert [state.loss is None for state in seen] == [True] * 4 + [False] * 8
    assert [state.step for state in seen] == [0, 0, 0, 0, *[1, 2, 3, 4] * 2]


@pytest.mark.parametrize("share", [0.0, 0.99])
def test_one_user_is_enough(layout: FeatureLayout, planted: list[FeatureBatch], make_columns: MakeColumns, share: float) -> None:
    """Held out or not, a single user is trained on and measured."""
    batch = FeatureBatch.from_columns(make_columns(1, 1), layout)
    config = replace(CONFIG, training=replace(CONFIG.training, held_out_share=share))
    network, metrics = _trained(layout, [batch], config)
    assert metrics["held_out_loss"]["total"] < metrics["held_out_loss_by_epoch"][0]
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_stream_without_slices_changes_nothing(layout: FeatureLayout, make_columns: MakeColumns) -> None:
    """No batch, an empty one, or users without any source: `train` refuses them after this."""
    absent = make_columns(5) | {f"{source}_count": np.zeros(5, np.int32) for source in layout.source_names}
    empty = {name: column[:0] for name, column in absent.items()}
    for batches in ([], [empty], [absent]):
        network, metrics = _trained(layout, [FeatureBatch.from_columns(columns, layout) for columns in batches])
        assert metrics["kept_epoch"] == 0
        assert network.queries.equal(QFormer(layout, CONFIG).queries)


def test_moments_are_those_of_training_events(layout: FeatureLayout, planted: list[FeatureBatch]) -> None:
    """Standardised values of training events have mean 0 and deviation 1; a slot outside the mask doesn't count."""
    network, _ = _trained(layout, planted, _changed(CONFIG, epochs=0))
    seen = []
    for batch in planted:
        kept = ~held_out_rows(batch, CONFIG.training.held_out_share, CONFIG.training.seed)
        bill = batch.events("bill")
        assert bill.mask is not None
        assert bill.event_values is not None
        values = bill.event_values[bill.mask & kept[:, None]]
        seen.append(np.sign(values) * np.log1p(np.abs(values)))
    whole = np.concatenate(seen)
    weights = network.events.of(0)
    np.testing.assert_allclose(weights.mean.numpy(), whole.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(1 / weights.inverse_std.numpy(), whole.std(axis=0), rtol=1e-4)


def test_small_batches_are_put_together(layout: FeatureLayout, planted: list[FeatureBatch], make_columns: MakeColumns) -> None:
    """A step has `batch_users` users however few a row group has; only the last one has fewer."""
    singles = [FeatureBatch.from_columns(make_columns(1, seed), layout) for seed in range(30)]
    config = replace(_changed(CONFIG, epochs=1, batch_users=8), training=replace(CONFIG.training, held_out_share=0.0))
    seen: list[QFormerState] = []
    _, metrics = _trained(layout, singles, config, report=seen.append)
    assert seen[-1].step == 4
    assert metrics["held_out_loss"]["contrast"] > 0


def test_memory_is_flat_in_users(layout: FeatureLayout, planted: list[FeatureBatch]) -> None:
    """A batch is forgotten before the next one is read: of the stream's batches one at a time is alive."""
    import gc
    import weakref

    alive: list[weakref.ref[Any]] = []

    def fresh() -> Iterator[FeatureBatch]:
        for batch in planted:
            copied = replace(batch, row_hash=np.arange(batch.num_users))
            assert copied.row_hash is not None
            alive.append(weakref.ref(copied.row_hash))
            yield copied
            del copied
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 1

    train_qformer(QFormer(layout, CONFIG), layout, _changed(CONFIG, epochs=1), fresh)
    assert len(alive) == 4 * len(planted)
