"""One vector per event: what values, times and ids say in it, and what they don't."""

import pytest
import torch

from u2qt_model import FeatureLayout, SourceLayout
from u2qt_model.event_embedding import EventEmbedding, ValueEmbedding, compressed, pooled, time_encodings
from u2qt_model.event_tensors import SourceEvents

TIMED = SourceLayout(name="bill", kind="events", num_ids=2, num_values=3, max_events=4, timed=True)
BARE = SourceLayout(name="seen", kind="events", num_ids=0, num_values=0, max_events=2)


def _events(rows: int = 5, seed: int = 0, slots: int = 4) -> SourceEvents:
    generator = torch.Generator().manual_seed(seed)
    return SourceEvents(
        ids=torch.randint(0, 50, (rows, slots, 2), generator=generator, dtype=torch.int32),
        values=torch.rand(rows, slots, 3, generator=generator) * torch.tensor([1e6, 1.0, 11.0]),
        mask=torch.rand(rows, slots, generator=generator) < 0.7,
    )


@pytest.fixture
def embedding() -> EventEmbedding:
    torch.manual_seed(0)
    return EventEmbedding(FeatureLayout(catalog="c", hash_buckets=50, sources=(TIMED, BARE)), 16, 8.0)


def test_compression_keeps_sign_and_order() -> None:
    """Finite at the ends of float32."""
    ends = torch.finfo(torch.float32)
    x = torch.tensor([ends.min, -5.0, 0.0, 1e-3, 7.0, ends.max])
    found = compressed(x)
    assert found.isfinite().all()
    assert found.equal(found.sort().values)
    assert found.sign().equal(x.sign())


def test_the_day_closes_and_the_gap_does_not() -> None:
    """Both midnights are one moment; no gap and a day's gap aren't. Out of range is the nearest end."""
    share, gap = torch.tensor([0.0, 1.0, 0.25, 2.0]), torch.tensor([0.0, 11.4, 1e38, -3.0])
    found = time_encodings(share, gap)
    assert found.shape == (4, 16)
    torch.testing.assert_close(found[0, :8], found[1, :8], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[2, 0:2], torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
    assert (found[0, 8:] - found[1, 8:]).abs().max() > 0.5
    assert found.isfinite().all()
    torch.testing.assert_close(found[3], torch.cat([found[1, :8], found[0, 8:]]))


def test_values_are_standardised_by_training_moments() -> None:
    """Cut at the clip; a value that never varied and a slot without event give 0."""
    values = ValueEmbedding(TIMED, 16, 2.0)
    values.fit(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([4.0, 0.0, 1.0]))
    raw = torch.tensor([[[3.0, 5.0, 0.0], [3.0, 5.0, 0.0], [1e9, 0.0, 0.0]]])
    events = SourceEvents(ids=torch.zeros(1, 3, 2, dtype=torch.int32), values=raw, mask=torch.tensor([[True, False, True]]))
    first = (torch.tensor(4.0).log() - 1) / 2
    torch.testing.assert_close(values.standardised(events), torch.tensor([[[first, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]]))


def test_embedding_is_the_sum_of_its_ids(embedding: EventEmbedding) -> None:
    """Order of fields doesn't matter, padding adds nothing, another id does."""
    events = _events()
    swapped = SourceEvents(ids=events.ids.flip(-1), values=events.values, mask=events.mask)
    other = SourceEvents(ids=(events.ids + 1) % 51, values=events.values, mask=events.mask)
    found = [embedding._of_one(one, 0) for one in (events, swapped, other)]
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - found[2])[events.mask].abs().amax(dim=-1).min() > 1e-3
    with torch.no_grad():
        embedding.ids.weight[0] = 1e6
    torch.testing.assert_close(embedding._of_one(events, 0), found[0])


def test_source_without_fields_is_embedded_by_its_constant(embedding: EventEmbedding) -> None:
    """All its events are alike."""
    nothing = SourceEvents(ids=torch.zeros(2, 2, 0, dtype=torch.int32), values=torch.zeros(2, 2, 0), mask=torch.ones(2, 2, dtype=torch.bool))
    found = embedding([_events(2), nothing])[1]
    assert found.shape == (2, 2, 16)
    assert found.std(dim=(0, 1)).max() < 1e-6
    assert found.abs().max() > 0


def test_pooling_is_the_mean_of_events() -> None:
    """Over the mask; zeros where there is none; garbage outside, NaN included, has no effect."""
    embedded = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [torch.nan, 9.0]], [[1.0, 1.0], [torch.nan, torch.inf], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pooled(embedded, mask).tolist() == [[2.0, 4.0], [0.0, 0.0]]
