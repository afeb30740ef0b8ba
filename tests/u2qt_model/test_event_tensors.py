"""Event arrays as tensors: one shape for all kinds of source, rows chosen and filled up."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from u2qt_model import FeatureBatch, FeatureLayout
from u2qt_model.errors import BatchError
from u2qt_model.event_tensors import joined, source_events

MakeBatch = Callable[..., FeatureBatch]


def test_chosen_rows_come_in_their_order_and_are_filled_up(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """The rest has no event in any source."""
    batch = make_batch(6)
    events = source_events(batch, layout, np.array([4, 1]), 5)
    bill = batch.events("bill")
    assert bill.event_ids is not None
    assert bill.mask is not None
    assert [tuple(one.ids.shape) for one in events] == [(5, 3, 2), (5, 3, 2), (5, 1, 2)]
    assert [tuple(one.values.shape) for one in events] == [(5, 3, 1), (5, 3, 1), (5, 1, 3)]
    np.testing.assert_array_equal(events[0].ids[:2].numpy(), bill.event_ids[[4, 1]])
    np.testing.assert_array_equal(events[0].mask[:2].numpy(), bill.mask[[4, 1]])
    assert not any(one.mask[2:].any() for one in events)


def test_profile_is_one_event(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """Its values and ids; present where the profile is."""
    batch = make_batch(4)
    there = np.array([True, False, True, True])
    batch = replace(batch, slices={**batch.slices, "profile": replace(batch.profile("profile"), present=there)})
    profile = source_events(batch, layout, np.arange(4), 4)[2]
    np.testing.assert_array_equal(profile.values[:, 0].numpy(), batch.profile("profile").values)
    assert profile.mask[:, 0].tolist() == profile.present.tolist() == there.tolist()


def test_events_of_an_absent_source_do_not_count(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """Whatever its mask says."""
    batch = make_batch(3)
    absent = replace(batch.events("bill"), present=np.zeros(3, bool), mask=np.ones((3, 3), bool))
    events = source_events(replace(batch, slices={**batch.slices, "bill": absent}), layout, np.arange(3), 3)
    assert not events[0].present.any()


def test_batch_without_event_arrays_is_refused(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """The message names the column and the way out."""
    batch = make_batch(3)
    plain = replace(batch.events("search_2"), event_ids=None, event_values=None, mask=None)
    with pytest.raises(BatchError, match=r"search_2_event_ids: column missing, expected the event arrays.*events=True"):
        source_events(replace(batch, slices={**batch.slices, "search_2": plain}), layout, np.arange(3), 3)


def test_parts_are_joined_in_their_order(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """Rows of two batches, source by source."""
    one, other = make_batch(3, 1), make_batch(4, 2)
    parts = [source_events(one, layout, np.array([2, 0]), 2), source_events(other, layout, np.array([3]), 1)]
    for source, found in enumerate(joined(parts)):
        for part, rows in zip(parts, (slice(0, 2), slice(2, 3)), strict=True):
            assert found.ids[rows].equal(part[source].ids)
            assert found.values[rows].equal(part[source].values)
            assert found.mask[rows].equal(part[source].mask)
