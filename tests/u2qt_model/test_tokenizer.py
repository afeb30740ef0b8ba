"""The frozen tokenizer: shapes, absence, and codes that depend on nothing but the row."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model import FeatureBatch, FeatureLayout, Tokenizer
from u2qt_model.config import EncodingConfig
from u2qt_model.errors import CodesError
from u2qt_model.presets import tiny
from u2qt_model.threads import fixed_threads
from u2qt_model.train import train

Columns = dict[str, np.ndarray[Any, Any]]
MakeColumns = Callable[..., Columns]
MakeBatch = Callable[..., FeatureBatch]
USERS = 90


@pytest.fixture(scope="module", params=["residual", "rq_kmeans"])
def small_blocks(request: pytest.FixtureRequest, layout: FeatureLayout, open_stream: Callable[[], Iterator[FeatureBatch]]) -> Tokenizer:
    """Blocks of 16 slices, so that 90 users fill several and leave one half empty."""
    config = replace(tiny(quantizer=request.param), encoding=EncodingConfig(block_rows=16))
    return train(layout, config, open_stream)


def _taken(columns: Columns, rows: Any) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


def test_codes_are_int16_per_user_source_and_level(tokenizer: Tokenizer, make_batch: MakeBatch) -> None:
    """(B, S, L) in [0, K), and -1 exactly where the source is absent."""
    batch = make_batch(40, 7)
    codes = tokenizer.encode(batch)
    assert (codes.dtype, codes.shape) == (np.int16, (40, 3, 4))
    present = np.stack([batch.slices[name].present for name in tokenizer.layout.source_names], axis=1)
    np.testing.assert_array_equal(codes == -1, np.broadcast_to(~present[:, :, None], codes.shape))
    assert codes.max() < tokenizer.config.quantizer.codebook_size


def test_no_users_give_no_codes(tokenizer: Tokenizer, make_columns: MakeColumns, layout: FeatureLayout) -> None:
    """An empty row group isn't an error."""
    codes, margins = tokenizer.encode_with_margins(FeatureBatch.from_columns(_taken(make_columns(1), []), layout))
    assert codes.shape == margins.shape == (0, 3, 4)
    assert tokenizer.decode(codes).shape == (0, 3, 32)


@settings(max_examples=15)
@given(data=st.data())
def test_codes_do_not_depend_on_the_batch(small_blocks: Tokenizer, make_columns: MakeColumns, layout: FeatureLayout, data: st.DataObject) -> None:
    """Any order, split and repetition of the rows gives the same codes and the same margins, to the last bit."""
    columns = make_columns(USERS, 11)
    expected, expected_margins = small_blocks.encode_with_margins(FeatureBatch.from_columns(columns, layout))
    order = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed")).permutation(USERS)
    cuts = sorted(data.draw(st.lists(st.integers(0, USERS), max_size=5), label="cuts"))
    for rows in np.split(order, cuts):
        codes, margins = small_blocks.encode_with_margins(FeatureBatch.from_columns(_taken(columns, rows), layout))
        np.testing.assert_array_equal(codes, expected[rows])
        np.testing.assert_array_equal(margins, expected_margins[rows])


def test_codes_do_not_depend_on_other_sources(tokenizer: Tokenizer, make_columns: MakeColumns, layout: FeatureLayout) -> None:
    """A user without bills has the same codes elsewhere."""
    columns = make_columns(30, 5)
    without = columns | {"bill_count": np.zeros(30, np.int32)}
    expected, found = (tokenizer.encode(FeatureBatch.from_columns(given, layout)) for given in (columns, without))
    np.testing.assert_array_equal(found[:, 1:], expected[:, 1:])
    assert (found[:, 0] == -1).all()


def test_codes_do_not_depend_on_the_threads_around(tokenizer: Tokenizer, make_batch: MakeBatch) -> None:
    """The process' setting is put aside, and back."""
    batch = make_batch(50, 3)
    with fixed_threads(1):
        expected = tokenizer.encode(batch)
    with fixed_threads(2):
        np.testing.assert_array_equal(tokenizer.encode(batch), expected)
        assert torch.get_num_threads() == 2


def test_margins_are_never_negative_and_come_with_the_same_codes(tokenizer: Tokenizer, make_batch: MakeBatch) -> None:
    """Finite; 0 where the source is absent; mostly above 0 where it isn't."""
    batch = make_batch(60, 4)
    codes, margins = tokenizer.encode_with_margins(batch)
    np.testing.assert_array_equal(codes, tokenizer.encode(batch))
    assert (margins.dtype, margins.shape) == (np.float32, codes.shape)
    assert np.isfinite(margins).all()
    assert (margins >= 0).all()
    assert (margins[codes == -1] == 0).all()
    assert (margins[codes >= 0] > 0).mean() > 0.9


def test_ties_give_the_lowest_code(tokenizer: Tokenizer, make_batch: MakeBatch) -> None:
    """All codewords of a level are made equal: code 0, margin 0."""
    tied = copy.deepcopy(tokenizer)
    shared, opened = tied.weights["quantizer.codebooks.shared"], tied.weights["quantizer.codebooks.shared_open"]
    shared[1], opened[1] = shared[1, 5].clone(), True
    tied._model.quantizer.codebooks.freeze()
    codes, margins = tied.encode_with_margins(make_batch(50, 2))
    assert set(codes[:, :, 1].ravel()) == {-1, 0}
    assert (margins[:, :, 1] == 0).all()


def test_only_open_code_has_the_largest_margin(tokenizer: Tokenizer, make_batch: MakeBatch) -> None:
    """There is no second best, and still no infinity."""
    single = copy.deepcopy(tokenizer)
    opened = single.weights["quantizer.codebooks.shared_open"]
    opened[0] = False
    opened[0, 9] = True
    single._model.quantizer.codebooks.freeze()
    codes, margins = single.encode_with_margins(make_batch(20, 2))
    assert set(codes[:, :, 0].ravel()) == {-1, 9}
    assert set(margins[:, :, 0].ravel()) == {0, np.finfo(np.float32).max}


@pytest.mark.parametrize("which", ["tokenizer", "baseline"])
def test_decoded_codes_are_close_to_the_slices(request: pytest.FixtureRequest, make_batch: MakeBatch, which: str) -> None:
    """(B, S, D), zeros where absent, and most of the slices' variance."""
    trained: Tokenizer = request.getfixturevalue(which)
    batch = make_batch(200, 9)
    codes = trained.encode(batch)
    decoded, projected = trained.decode(codes), trained.project(batch)
    assert (decoded.dtype, decoded.shape) == (np.float32, (200, 3, 32))
    assert (decoded[codes[:, :, 0] == -1] == 0).all()
    assert np.square(projected - decoded).sum() < 0.5 * np.square(projected).sum()


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_decoding_does_not_depend_on_the_batch(small_blocks: Tokenizer, seed: int) -> None:
    """Row by row the same vectors as all at once."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 32, (40, 3, 4)).astype(np.int16)
    codes[rng.random((40, 3)) < 0.3] = -1
    order = rng.permutation(40)
    np.testing.assert_array_equal(small_blocks.decode(codes[order]), small_blocks.decode(codes)[order])


@pytest.mark.parametrize(
    ("codes", "word"),
    [
        (np.full((2, 3, 4), 32, np.int16), "found 32 at row 0, bill, level 1"),
        (np.full((2, 3, 4), -2, np.int16), "found -2"),
        (np.tile(np.array([0, 0, 0, -1], np.int16), (2, 3, 1)), "found -1 in some levels"),
        (np.zeros((2, 3, 4), np.float32), "expected integers"),
        (np.zeros((2, 4, 3), np.int16), r"expected integers \(B, 3, 4\)"),
    ],
)
def test_foreign_codes_are_not_decoded(tokenizer: Tokenizer, codes: np.ndarray[Any, Any], word: str) -> None:
    """Out of range, half absent, another type or shape."""
    with pytest.raises(CodesError, match=word):
        tokenizer.decode(codes)


def test_untrained_source_has_no_codes(layout: FeatureLayout, make_columns: MakeColumns, make_batch: MakeBatch) -> None:
    """-1 even where it is present: any code would be made up."""
    columns = make_columns(100) | {"search_2_count": np.zeros(100, np.int32)}
    trained = train(layout, tiny(), lambda: iter([FeatureBatch.from_columns(columns, layout)]))
    batch = make_batch(20, 1)
    assert trained.untrained_sources == ("search_2",)
    assert batch.events("search_2").present.any()
    assert (trained.encode(batch)[:, 1] == -1).all()
    assert (trained.project(batch)[:, 1] == 0).all()


def test_columns_are_enough_to_encode(tokenizer: Tokenizer, make_columns: MakeColumns, layout: FeatureLayout) -> None:
    """What `columns` names gives the codes that all columns give."""
    columns = make_columns(20, 6)
    needed = {name: columns[name] for name in tokenizer.columns()}
    expected, found = (tokenizer.encode(FeatureBatch.from_columns(given, layout)) for given in (columns, needed))
    np.testing.assert_array_equal(found, expected)


def test_fingerprint_covers_weights_and_configuration(tokenizer: Tokenizer, baseline: Tokenizer) -> None:
    """One changed weight, or another quantizer, is another tokenizer; metrics aren't."""
    changed = Tokenizer(tokenizer.layout, tokenizer.config, copy.deepcopy(tokenizer._model), tokenizer._embedder, {"other": 1})
    assert changed.fingerprint == tokenizer.fingerprint
    assert len(tokenizer.fingerprint) == 64
    changed.weights["projections.0.offset"][0] += 1
    del changed.__dict__["fingerprint"]
    assert len({tokenizer.fingerprint, changed.fingerprint, baseline.fingerprint}) == 3


def test_description_says_what_a_reader_needs(tokenizer: Tokenizer) -> None:
    """Fingerprint, catalog, sources and the numbering of tokens."""
    described = tokenizer.describe()
    assert (described["fingerprint"], described["catalog"], described["quantizer"]) == (tokenizer.fingerprint, "test", "residual")
    assert [source["name"] for source in described["sources"]] == ["bill", "search_2", "profile"]
    assert described["vocabulary_size"] == 32 * (2 + 3 * 2)
