"""The whole loss: its parts, and that no absence makes it or its gradient NaN."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from u2qt_model import FeatureBatch, FeatureLayout
from u2qt_model.event_tensors import source_events
from u2qt_model.presets import tiny
from u2qt_model.qformer import QFormer
from u2qt_model.qformer_heads import QFormerHeads

MakeBatch = Callable[..., FeatureBatch]
CONFIG = tiny(stage1="qformer")


def _without(batch: FeatureBatch, *sources: str) -> FeatureBatch:
    nobody = np.zeros(batch.num_users, bool)
    return replace(batch, slices={name: replace(one, present=nobody) if name in sources else one for name, one in batch.slices.items()})


@pytest.mark.parametrize("users", [1, 2, 30])
@pytest.mark.parametrize("absent", [(), ("bill",), ("search_2",), ("profile",), ("bill", "profile"), ("bill", "search_2", "profile")])
def test_absence_is_never_nan(layout: FeatureLayout, make_batch: MakeBatch, users: int, absent: tuple[str, ...]) -> None:
    """Sources absent from the whole batch, up to all of them, and a batch of one user: loss and gradients are finite."""
    network, heads = QFormer(layout, CONFIG), QFormerHeads(layout, CONFIG)
    batch = _without(make_batch(users), *absent)
    loss = heads(network, source_events(batch, layout, np.arange(users), users))
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(weight.grad is None or weight.grad.isfinite().all() for part in (network, heads) for weight in part.parameters())
    assert loss.slices == sum(int(one.present.sum()) for one in batch.slices.values())
    if len(absent) == 3:
        assert loss.total.item() == 0
    if users == 1 or len(absent) >= 2:
        assert loss.contrast.item() == 0


def test_total_is_the_weighted_sum(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """By the configuration's weights."""
    config = replace(CONFIG, qformer=replace(CONFIG.qformer, bag_weight=2.0, value_weight=0.5, contrast_weight=3.0))
    events = source_events(make_batch(40), layout, np.arange(40), 40)
    loss = QFormerHeads(layout, config)(QFormer(layout, config), events)
    torch.testing.assert_close(loss.total, 2 * loss.bags + 0.5 * loss.values + 3 * loss.contrast)
    assert min(loss.bags.item(), loss.values.item(), loss.contrast.item()) > 0


def test_contrast_of_the_first_source_reads_no_later_one(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """Of two sources, the first predicts the second; what predicts has no gradient from the second's queries."""
    two = replace(layout, sources=layout.sources[:2])
    network, heads = QFormer(two, CONFIG), QFormerHeads(two, CONFIG)
    heads(network, source_events(make_batch(40), two, np.arange(40), 40)).contrast.backward()
    assert network.queries.grad is not None
    per_source = network.queries.grad.view(2, -1).abs().sum(dim=1)
    assert per_source[0] > 0
    assert per_source[1] == 0
