"""The frozen Q-Former as stage 1: embeddings that depend on nothing but the user."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model import FeatureBatch, FeatureLayout
from u2qt_model.config import EncodingConfig
from u2qt_model.errors import BatchError
from u2qt_model.event_tensors import source_events
from u2qt_model.presets import tiny
from u2qt_model.qformer_embedder import QFormerEmbedder
from u2qt_model.stage_one import slice_embedder
from u2qt_model.text_embedder import TextEmbedder
from u2qt_model.threads import fixed_threads

MakeColumns = Callable[..., dict[str, np.ndarray[Any, Any]]]
MakeBatch = Callable[..., FeatureBatch]
CONFIG = replace(tiny(stage1="qformer"), encoding=EncodingConfig(block_users=16))


@pytest.fixture(scope="module")
def embedder(layout: FeatureLayout) -> QFormerEmbedder:
    """Untrained, in blocks of 16 users."""
    return QFormerEmbedder(layout, CONFIG)


def test_stage_one_is_the_configured_one(layout: FeatureLayout) -> None:
    """Only a Q-Former has weights for the checkpoint, and only text has an encoder to name."""
    text, qformer = slice_embedder(layout, tiny()), slice_embedder(layout, CONFIG)
    assert isinstance(text, TextEmbedder)
    assert text.network is None
    assert isinstance(qformer, QFormerEmbedder)
    assert qformer.text_encoder_identity == {"kind": "none"} != text.text_encoder_identity


def test_embedding_is_the_network_s_output(embedder: QFormerEmbedder, layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """The source's queries side by side, for the present rows."""
    batch = make_batch(16)
    rows = embedder.present_rows(batch, 1)
    assert 0 < len(rows) < 16
    with torch.inference_mode(), fixed_threads(1):
        expected = embedder.network(source_events(batch, layout, np.arange(16), 16)).slices[rows, 1].numpy()
    found = embedder.embed(batch, 1, rows)
    assert found.shape == (len(rows), embedder.width(1)) == (len(rows), 2 * 32)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=20)
@given(data=st.data())
def test_embeddings_do_not_depend_on_the_batch(embedder: QFormerEmbedder, make_columns: MakeColumns, layout: FeatureLayout, data: st.DataObject) -> None:
    """Any order, split and repetition of the users, to the last bit."""
    columns = make_columns(50, 3)
    everyone = FeatureBatch.from_columns(columns, layout)
    order = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed")).integers(0, 50, 60)
    cuts = sorted(data.draw(st.lists(st.integers(0, 60), max_size=4), label="cuts"))
    for rows in np.split(order, cuts):
        part = FeatureBatch.from_columns({name: column[rows] for name, column in columns.items()}, layout)
        for source in range(3):
            np.testing.assert_array_equal(embedder.embed(part, source, np.arange(len(rows))), embedder.embed(everyone, source, rows))


def test_threads_around_do_not_matter(embedder: QFormerEmbedder, make_batch: MakeBatch) -> None:
    """The configuration's number holds."""
    rows = np.arange(40)
    with fixed_threads(2):
        found = embedder.embed(make_batch(40, 1), 0, rows)
    np.testing.assert_array_equal(found, embedder.embed(make_batch(40, 1), 0, rows))


def test_one_run_serves_all_sources(embedder: QFormerEmbedder, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network sees a batch once, and another batch, equal or not, again."""
    runs: list[int] = []
    inner = embedder.network.forward
    monkeypatch.setattr(embedder.network, "forward", lambda events: runs.append(1) or inner(events))
    for batch in (make_batch(10), make_batch(10)):
        for source in range(3):
            embedder.embed(batch, source, embedder.present_rows(batch, source))
    assert len(runs) == 2


def test_embedding_that_is_not_finite_is_refused(embedder: QFormerEmbedder, layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """Source and row hash are named."""
    spoilt = QFormerEmbedder(layout, CONFIG)
    with torch.no_grad():
        spoilt.network.norm.weight.fill_(torch.nan)
    batch = make_batch(4)
    assert batch.row_hash is not None
    with pytest.raises(BatchError, match=rf"profile: row_hash {batch.row_hash[2]}: its embedding isn't finite"):
        spoilt.embed(batch, 2, np.array([2, 3]))


def test_no_rows_give_no_vectors(embedder: QFormerEmbedder, make_columns: MakeColumns, layout: FeatureLayout) -> None:
    """Nor does an empty batch."""
    empty = FeatureBatch.from_columns({name: column[:0] for name, column in make_columns(1).items()}, layout)
    assert embedder.embed(empty, 0, np.zeros(0, np.int64)).shape == (0, 64)
