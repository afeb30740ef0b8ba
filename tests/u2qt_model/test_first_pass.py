"""The first pass: what it counts and keeps per source, and who is held out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from u2qt_model import FeatureBatch, FeatureLayout, first_pass
from u2qt_model.errors import TrainingError
from u2qt_model.presets import tiny
from u2qt_model.text_embedder import TextEmbedder

MakeBatch = Callable[..., FeatureBatch]


def _read(layout: FeatureLayout, batches: list[FeatureBatch], share: float = 0.1, **training: Any) -> tuple[first_pass.FirstPass, list[int]]:
    config = replace(tiny(), training=replace(tiny().training, **training))
    embedder = TextEmbedder(layout, config)
    widths = [embedder.width(source) for source in range(len(layout.sources))]
    reported: list[int] = []
    return first_pass.first_pass(batches, embedder, widths, [source.kind for source in layout.sources], config, share, reported.append), reported


def test_every_slice_is_counted_once(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """Training and held-out slices together are the present ones."""
    batches = [make_batch(100, seed) for seed in range(3)]
    found, reported = _read(layout, batches)
    assert (found.users, reported) == (300, [100, 200, 300])
    for name, sample in zip(layout.source_names, found.sources, strict=True):
        assert sample.moments.count + sample.held_out_slices == sum(batch.slices[name].present.sum() for batch in batches)
        assert len(sample.training.rows()) == sample.moments.count
        assert len(sample.held_out.rows()) == sample.held_out_slices > 0


def test_samples_are_bounded(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """50 slices a code, or what the configuration says; the moments are of all of them."""
    found, _ = _read(layout, [make_batch(300, seed) for seed in range(2)], 0.5, slices_per_code=1, held_out_slices=7)
    profile = found.sources[2]
    assert (len(profile.training.rows()), len(profile.held_out.rows())) == (32, 7)
    assert profile.moments.count > 200


def test_large_batches_are_embedded_in_parts(layout: FeatureLayout, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same moments."""
    whole, _ = _read(layout, [make_batch(100)])
    monkeypatch.setattr(first_pass, "CHUNK_USERS", 9)
    parts, _ = _read(layout, [make_batch(100)])
    np.testing.assert_allclose(parts.sources[0].moments.mean(), whole.sources[0].moments.mean(), atol=1e-12)
    assert parts.sources[0].moments.count == whole.sources[0].moments.count


def test_a_users_days_fall_on_one_side(make_batch: MakeBatch) -> None:
    """Rows of another day, batch or order."""
    batch = make_batch(200)
    held_out = first_pass.held_out_rows(batch, 0.3, 5)
    turned = replace(batch, user_id=batch.user_id[::-1] if batch.user_id is not None else None)
    np.testing.assert_array_equal(first_pass.held_out_rows(turned, 0.3, 5), held_out[::-1])


def test_ids_are_needed_to_hold_users_out(make_batch: MakeBatch) -> None:
    """And only then."""
    nameless = replace(make_batch(3), user_id=None)
    assert first_pass.held_out_rows(nameless, 0.0, 0).tolist() == [False] * 3
    with pytest.raises(TrainingError, match="user_id: column missing"):
        first_pass.held_out_rows(nameless, 0.1, 0)
