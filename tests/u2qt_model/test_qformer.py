"""The causal Q-Former: who sees whom, and what follows from it for every output, to the last bit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model import FeatureLayout, SourceLayout
from u2qt_model.event_tensors import SourceEvents
from u2qt_model.presets import tiny
from u2qt_model.qformer import Attention, QFormer, event_mask, group_mask

SLOTS, FIELDS, VALUES = (4, 3, 5, 1), (2, 1, 3, 2), (3, 2, 2, 3)
SOURCES = (
    *(SourceLayout(name=f"s{i}", kind="events", num_ids=FIELDS[i], num_values=VALUES[i], max_events=SLOTS[i], timed=True) for i in range(3)),
    SourceLayout(name="profile", kind="profile", num_ids=2, num_values=3),
)
LAYOUT = FeatureLayout(catalog="c", hash_buckets=60, sources=SOURCES)
Q, E = 2, 32


@pytest.fixture(scope="module")
def network() -> QFormer:
    """Untrained, with value moments that let values through."""
    found = QFormer(LAYOUT, tiny(stage1="qformer")).requires_grad_(False)
    for source in range(4):
        found.events.of(source).inverse_std.fill_(1.0)
    return found


def _events(seed: int, rows: int = 6) -> list[SourceEvents]:
    """Every source present or absent at random; every absent slot full of garbage."""
    generator = torch.Generator().manual_seed(seed)
    events = []
    for slots, fields, values in zip(SLOTS, FIELDS, VALUES, strict=True):
        mask = (torch.rand(rows, slots, generator=generator) < 0.6) & (torch.rand(rows, 1, generator=generator) < 0.7)
        ids = torch.randint(0, 61, (rows, slots, fields), generator=generator, dtype=torch.int32)
        events.append(SourceEvents(ids=ids, values=torch.randn(rows, slots, values, generator=generator) * 5, mask=mask))
    return events


def _replaced(events: list[SourceEvents], source: int, one: SourceEvents) -> list[SourceEvents]:
    return [*events[:source], one, *events[source + 1 :]]


def _permuted(one: SourceEvents, seed: int) -> SourceEvents:
    order = torch.randperm(one.mask.shape[1], generator=torch.Generator().manual_seed(seed))
    return SourceEvents(ids=one.ids[:, order], values=one.values[:, order], mask=one.mask[:, order])


def test_a_group_sees_itself_and_earlier_present_groups() -> None:
    """The second of three sources is absent: it sees, and isn't seen."""
    found = group_mask(torch.tensor([[True, False, True]]), 1)
    assert found.int().tolist() == [[[1, 0, 0], [1, 1, 0], [1, 0, 1]]]
    assert group_mask(torch.tensor([[False, True]]), 2)[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_a_group_sees_its_own_source_s_events_only() -> None:
    """Two sources of two slots and one, two queries each."""
    found = event_mask([torch.tensor([[True, False]]), torch.tensor([[True]])], 2)
    assert found.int().tolist() == [[[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]]


def test_a_query_that_sees_nothing_gets_the_output_s_bias() -> None:
    """Not NaN, and not the mean of what is masked; its gradient is finite."""
    attention = Attention(16, 2)
    seen = torch.tensor([[[True, True, False], [False, False, False]]])
    keys = torch.randn(1, 3, 16, requires_grad=True)
    found = attention(torch.randn(1, 2, 16), keys, seen)
    torch.testing.assert_close(found[0, 1], attention.to_output.bias)
    found.sum().backward()
    assert keys.grad is not None
    assert keys.grad.isfinite().all()
    assert (keys.grad[0, 2] == 0).all()
    assert keys.grad[0, :2].abs().max() > 0


def test_shapes(network: QFormer) -> None:
    """Per user and source q queries of width E side by side, the pooled content, and presence."""
    events = _events(1)
    found = network(events)
    assert found.slices.shape == (6, 4, Q * E)
    assert network.slice_width == Q * E
    assert found.content.shape == (6, 4, E)
    assert found.present.equal(torch.stack([one.mask.any(dim=1) for one in events], dim=1))
    assert (found.content[~found.present] == 0).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), source=st.integers(1, 3), change=st.sampled_from(["permuted", "other", "removed"]))
def test_a_later_source_never_changes_an_earlier_group(network: QFormer, seed: int, source: int, change: str) -> None:
    """Permuted, made of other events, or removed: equal bits before it."""
    events = _events(seed)
    one = events[source]
    changed = {
        "permuted": _permuted(one, seed),
        "other": _events(seed + 1)[source],
        "removed": replace(one, mask=torch.zeros_like(one.mask)),
    }[change]
    before, after = network(events), network(_replaced(events, source, changed))
    assert after.slices[:, :source].equal(before.slices[:, :source])
    assert after.content[:, :source].equal(before.content[:, :source])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), source=st.integers(0, 3))
def test_an_absent_source_is_no_key(network: QFormer, seed: int, source: int) -> None:
    """The others are finite without it, and don't depend on what lies in its empty slots."""
    events = _events(seed)
    nobody = torch.zeros_like(events[source].mask)
    one, other = (network(_replaced(events, source, replace(given[source], mask=nobody))) for given in (events, _events(seed + 1)))
    assert one.slices.isfinite().all()
    assert one.slices.equal(other.slices)
    assert not one.present[:, source].any()


def test_an_earlier_source_changes_later_groups(network: QFormer) -> None:
    """Causal doesn't mean blind: present sources are seen by all later ones."""
    events = _events(3, rows=40)
    before, after = network(events), network(_replaced(events, 0, _events(4, rows=40)[0]))
    both = before.present[:, 0] & after.present[:, 0]
    moved = (before.slices - after.slices).abs().amax(dim=-1)[both]
    assert both.any()
    assert (moved > 1e-4).all()


def test_absence_is_not_a_zero_vector(network: QFormer) -> None:
    """A later group reads another thing in a missing source than in one whose events are all zero."""
    events = _events(5)
    zeros = SourceEvents(ids=torch.zeros_like(events[0].ids), values=torch.zeros_like(events[0].values), mask=torch.ones_like(events[0].mask))
    there, missing = (network(_replaced(events, 0, replace(zeros, mask=mask))) for mask in (zeros.mask, torch.zeros_like(zeros.mask)))
    assert ((there.slices[:, 1:] - missing.slices[:, 1:]).abs().amax(dim=-1) > 1e-4).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_slots_have_no_order(network: QFormer, seed: int) -> None:
    """Events moved to other slots together with their times are the same slice."""
    events = _events(seed)
    moved = [_permuted(one, seed + source) for source, one in enumerate(events)]
    torch.testing.assert_close(network(moved).slices, network(events).slices, atol=1e-4, rtol=1e-4)


def test_time_is_in_the_values(network: QFormer) -> None:
    """The same events with their times exchanged are another slice."""
    events = _events(2)
    full = replace(events[0], mask=torch.ones_like(events[0].mask), values=torch.rand_like(events[0].values))
    exchanged = torch.cat([full.values[..., :-2], full.values[..., -2:].flip(1)], dim=-1)
    before, after = (network(_replaced(events, 0, replace(full, values=values))) for values in (full.values, exchanged))
    assert ((before.slices - after.slices)[:, 0].abs().amax(dim=-1) > 1e-4).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), more=st.integers(1, 9))
def test_padding_has_no_effect(network: QFormer, seed: int, more: int) -> None:
    """More slots, full of garbage up to NaN, under a mask that says so."""
    events = _events(seed)
    longer = [
        SourceEvents(
            ids=torch.nn.functional.pad(one.ids, (0, 0, 0, more), value=7),
            values=torch.nn.functional.pad(one.values, (0, 0, 0, more), value=float("nan") if seed % 2 else 1e30),
            mask=torch.nn.functional.pad(one.mask, (0, more)),
        )
        for one in events
    ]
    torch.testing.assert_close(network(longer).slices, network(events).slices, atol=1e-4, rtol=1e-4)


def test_users_without_anything_are_finite(network: QFormer) -> None:
    """Every source absent; no user at all; one user."""
    nobody = [replace(one, mask=torch.zeros_like(one.mask)) for one in _events(0)]
    assert network(nobody).slices.isfinite().all()
    for rows in (0, 1):
        assert network(_events(0, rows)).slices.shape == (rows, 4, Q * E)


def test_every_second_block_reads_events() -> None:
    """The first, third and fifth."""
    config = tiny(stage1="qformer")
    blocks = QFormer(LAYOUT, replace(config, qformer=replace(config.qformer, blocks=5))).blocks
    assert [block.reading is not None for block in blocks] == [True, False, True, False, True]


def test_seed_decides_the_weights() -> None:
    """The caller's random state doesn't."""
    config = tiny(seed=4, stage1="qformer")
    first = QFormer(LAYOUT, config).state_dict()
    torch.manual_seed(123)
    again, other = QFormer(LAYOUT, config).state_dict(), QFormer(LAYOUT, tiny(seed=5, stage1="qformer")).state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in first.items())
    assert not first["queries"].equal(other["queries"])
