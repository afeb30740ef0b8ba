"""Present slices as vectors: which rows, which path, equal texts once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from u2qt_model import FeatureBatch, FeatureLayout
from u2qt_model.errors import BatchError
from u2qt_model.presets import tiny
from u2qt_model.profile_features import profile_vectors
from u2qt_model.text_embedder import TextEmbedder

MakeColumns = Callable[..., dict[str, np.ndarray[Any, Any]]]


@pytest.fixture
def embedder(layout: FeatureLayout) -> TextEmbedder:
    return TextEmbedder(layout, tiny())


@pytest.fixture
def batch(make_columns: MakeColumns, layout: FeatureLayout) -> FeatureBatch:
    """Bills of rows 0, 2 and 3; two of them are equal."""
    columns = make_columns(4) | {"bill_count": np.array([1, 0, 2, 1], np.int32)}
    columns["bill_text"][:] = [b"tea", b"", b"red apple", b"tea"]
    return FeatureBatch.from_columns(columns, layout)


def test_rows_are_the_present_ones(embedder: TextEmbedder, batch: FeatureBatch) -> None:
    """Ascending; a profile is always there."""
    assert embedder.present_rows(batch, 0).tolist() == [0, 2, 3]
    assert embedder.present_rows(batch, 2).tolist() == [0, 1, 2, 3]


def test_equal_texts_are_embedded_once(embedder: TextEmbedder, batch: FeatureBatch) -> None:
    """Distinct vectors and where each row finds its own."""
    rows = embedder.present_rows(batch, 0)
    distinct, inverse = embedder.distinct(batch, 0, rows)
    assert distinct.shape == (2, 256)
    assert inverse[0] == inverse[2] != inverse[1]
    np.testing.assert_array_equal(embedder.embed(batch, 0, rows), embedder.text_encoder.encode([b"tea", b"red apple", b"tea"]))


def test_profile_takes_its_own_path(embedder: TextEmbedder, batch: FeatureBatch) -> None:
    """Values and hashed ids, of the width the embedder names."""
    profile, rows = batch.profile("profile"), np.array([1, 3])
    found = embedder.embed(batch, 2, rows)
    assert found.shape == (2, embedder.width(2)) == (2, 3 + 64)
    np.testing.assert_array_equal(found, profile_vectors(profile.values[rows], profile.ids[rows], 64))


def test_no_rows_give_no_vectors(embedder: TextEmbedder, batch: FeatureBatch) -> None:
    """For either kind."""
    nobody = np.zeros(0, np.int64)
    assert embedder.embed(batch, 0, nobody).shape == (0, 256)
    assert embedder.embed(batch, 2, nobody).shape == (0, 67)


class _CountingEncoder:
    """The length of each text; keeps what it was given."""

    identity: dict[str, str | int] = {}  # noqa: RUF012
    width = 1
    embeds_batches = True

    def __init__(self) -> None:
        self.given: list[Sequence[bytes]] = []

    def encode(self, texts: Sequence[bytes]) -> np.ndarray[Any, Any]:
        self.given.append(texts)
        return np.array([[len(text)] for text in texts], np.float32).reshape(-1, 1)


def test_costly_encoder_sees_each_text_of_a_batch_once(embedder: TextEmbedder, batch: FeatureBatch) -> None:
    """Of all sources and rows together, absent ones not; another batch is embedded anew."""
    embedder.text_encoder = encoder = _CountingEncoder()
    batch.events("search_2").texts[:] = [b"tea", b"green tea", b"", b"red apple"]
    batch.events("search_2").present[:] = [True, True, False, True]
    for rows in (embedder.present_rows(batch, 0), np.array([3])):
        expected = [[len(text)] for text in batch.events("bill").texts[rows]]
        np.testing.assert_array_equal(embedder.embed(batch, 0, rows), expected)
    distinct, inverse = embedder.distinct(batch, 1, embedder.present_rows(batch, 1))
    assert (distinct[:, 0].tolist(), inverse.tolist()) == ([9, 9, 3], [2, 0, 1])
    assert encoder.given == [[b"green tea", b"red apple", b"tea"]]
    assert embedder.embed(batch, 0, np.zeros(0, np.int64)).shape == (0, 1)
    embedder.embed(replace(batch, row_hash=None), 0, np.array([0]))
    assert len(encoder.given) == 2


class _BrokenEncoder:
    """Gives NaN for one text."""

    identity: dict[str, str | int] = {}  # noqa: RUF012
    width = 256
    embeds_batches = False

    def encode(self, texts: Sequence[bytes]) -> np.ndarray[Any, Any]:
        return np.array([[np.nan if text == b"red apple" else 0.0] * 256 for text in texts], np.float32)


def test_embedding_that_is_not_finite_is_refused(embedder: TextEmbedder, batch: FeatureBatch) -> None:
    """Source and row hash are named, not the text."""
    embedder.text_encoder = _BrokenEncoder()
    assert batch.row_hash is not None
    with pytest.raises(BatchError, match=rf"bill: row_hash {batch.row_hash[2]}: its embedding isn't finite") as caught:
        embedder.embed(batch, 0, embedder.present_rows(batch, 0))
    assert "apple" not in str(caught.value)
    with pytest.raises(BatchError, match="bill: row 2:"):
        embedder.embed(replace(batch, row_hash=None), 0, embedder.present_rows(batch, 0))
