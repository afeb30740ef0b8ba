"""Codes, ids and names: inverse pairs, and what is outside."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from u2qt_model.errors import CodesError
from u2qt_model.vocabulary import Token, Vocabulary

WORDS = Vocabulary(sources=("bill", "bill_2"), shared_sizes=(500, 0, 0), own_sizes=(0, 500, 500))
APART = Vocabulary(sources=("bill", "profile"), shared_sizes=(4, 0), own_sizes=(0, 6), apart={"profile": (8, 8, 8)})
WIDE = Vocabulary(sources=("bill", "app"), shared_sizes=(10, 10), own_sizes=(4, 4))
SHAPES = st.lists(st.tuples(st.sampled_from([0, 2, 32, 32768]), st.sampled_from([0, 3, 32])).filter(any), min_size=1, max_size=5).flatmap(
    lambda sizes: st.builds(
        Vocabulary,
        sources=st.sampled_from([("a",), ("a", "b_1"), ("a", "a_2", "c")]),
        shared_sizes=st.just(tuple(shared for shared, _ in sizes)),
        own_sizes=st.just(tuple(own for _, own in sizes)),
        apart=st.sampled_from([{}, {"a": (7,)}, {"a": (7, 500, 1, 9, 9, 9)}]),
    )
)


@given(SHAPES, st.data())
def test_ids_and_names_are_inverse_pairs(words: Vocabulary, data: st.DataObject) -> None:
    """Every id is one token and one name, back and forth."""
    token_id = data.draw(st.integers(0, words.size - 1))
    token = words.token(token_id)
    assert words.token_id(token.source, token.level, token.code) == token_id
    assert words.parse_name(words.token_name(token.source, token.level, token.code)) == token


@given(SHAPES, st.integers(0, 2**31))
def test_codes_and_ids_are_inverse(words: Vocabulary, seed: int) -> None:
    """Codes (B, S, L) come back; absent slices stay -1."""
    rng = np.random.default_rng(seed)
    shape = (4, len(words.sources), words.num_levels)
    codes = np.where(words.sizes > 0, rng.integers(0, np.clip(words.sizes, 1, 32768), shape), -1).astype(np.int16)
    codes[rng.random(codes.shape[:2]) < 0.3] = -1
    ids = words.token_ids(codes)
    assert ids.max() < words.size
    np.testing.assert_array_equal(words.codes(ids), codes)


def test_names_and_ids_of_literal_tokens() -> None:
    """Shared levels have one token for all sources; own levels come source after source."""
    assert WORDS.token_name("bill", 1, 391) == WORDS.token_name(None, 1, 391) == "<shared_1_0391>"
    assert WORDS.token_name("bill_2", 3, 7) == "<bill_2_3_0007>"
    assert WORDS.parse_name("<bill_2_3_0007>") == Token(source="bill_2", level=3, code=7)
    codes = np.array([[[1, 2, 3], [1, 2, 3]], [[0, 0, 0], [-1, -1, -1]]])
    assert WORDS.token_ids(codes).tolist() == [[[1, 502, 1003], [1, 1502, 2003]], [[0, 500, 1000], [-1, -1, -1]]]
    assert WORDS.size == 2500
    assert WORDS.names()[1502] == "<bill_2_2_0002>"


def test_description_numbers_every_level() -> None:
    """What layout.json says of the levels."""
    bill, second = WORDS.describe_levels("bill"), WORDS.describe_levels("bill_2")
    assert (len(bill), WORDS.num_levels, WORDS.size) == (3, 3, 2500)
    assert bill[0] == {"level": 1, "codebook_size": 500, "shared_size": 500, "shared_offset": 0, "own_offset": 0}
    assert (bill[2]["own_offset"], second[2]["own_offset"]) == (1000, 2000)


def test_a_source_apart_has_own_tokens_only() -> None:
    """It reaches no shared code, and has as many levels as its own quantizer."""
    assert APART.token_ids(np.array([[[3, 4, -1], [0, 1, 7]]])).tolist() == [[[3, 8, -1], [10, 19, 33]]]
    assert APART.size == 34
    assert APART.token_name("profile", 1, 0) == "<profile_1_0000>"
    assert APART.names()[33] == "<profile_3_0007>"
    for codes in ([[[3, 4, 0], [-1, -1, -1]]], [[[3, 4, -1], [1, 1, -1]]]):
        with pytest.raises(CodesError):
            APART.token_ids(np.array(codes))
    with pytest.raises(CodesError, match="level: found 3, expected 1 to 2"):
        APART.token_id("bill", 3, 0)


def test_width_has_both_kinds_on_a_level() -> None:
    """Own codes follow the shared ones, and their names keep the level's numbering."""
    assert WIDE.token_name("app", 2, 9) == "<shared_2_0009>"
    assert WIDE.token_name("app", 2, 10) == "<app_2_0010>"
    assert WIDE.token_ids(np.array([[[9, 10], [10, 13]]])).tolist() == [[[9, 24], [28, 35]]]
    assert WIDE.token(28) == Token(source="app", level=1, code=10)
    assert WIDE.size == 36
    with pytest.raises(CodesError, match="code: found 10 of shared at level 1, expected 0 to 9"):
        WIDE.token_id(None, 1, 10)


@pytest.mark.parametrize(
    ("codes", "word"),
    [
        (np.zeros((1, 2, 2), int), "expected integers"),
        (np.zeros((2, 3), int), "expected integers"),
        (np.zeros((1, 2, 3)), "float64"),
        (np.full((1, 2, 3), 500), "found 500 at row 0, bill, level 1"),
        (np.full((1, 2, 3), -2), "found -2"),
        (np.array([[[0, -1, 0], [0, 0, 0]]]), "found -1 in some levels"),
    ],
)
def test_foreign_codes_are_refused(codes: np.ndarray, word: str) -> None:  # type: ignore[type-arg]
    """Shape, type, range and half-absent slices."""
    with pytest.raises(CodesError, match=word):
        WORDS.token_ids(codes)


def test_id_of_another_source_is_refused() -> None:
    """An id is good in its own place only."""
    ids = WORDS.token_ids(np.zeros((1, 2, 3), int))
    for wrong in (ids[:, ::-1], ids + 500):
        with pytest.raises(CodesError):
            WORDS.codes(wrong)


def test_foreign_tokens_are_refused() -> None:
    """Ids, names, sources, levels and codes outside the vocabulary."""
    for token_id in (-1, 2500):
        with pytest.raises(CodesError, match="token id"):
            WORDS.token(token_id)
    names = ("bill_2_0001", "<bill_0_0001>", "<bill_2_00001>", "<bill_4_0001>", "<shared_2_0001>", "<app_2_0001>", "<bill_2_0500>")
    for name in (*names, "<bill_1_0001>"):
        with pytest.raises(CodesError):
            WORDS.parse_name(name)
