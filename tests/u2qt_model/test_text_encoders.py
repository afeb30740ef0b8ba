"""Frozen text encoders: any bytes, always the same vector, whatever stands beside them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model.text_config import TextEncoderConfig, TextModelConfig
from u2qt_model.text_encoders import HashingTextEncoder, text_encoder

ENCODER = HashingTextEncoder(TextEncoderConfig(width=64))


@settings(max_examples=30)
@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace"))), max_size=6))
def test_vectors_are_finite_and_independent_of_neighbours(texts: list[bytes]) -> None:
    """float32 (N, E) of length 0 or 1; alone the same bits as in company."""
    vectors = ENCODER.encode(texts)
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(texts), 64))
    lengths = np.linalg.norm(vectors, axis=1)
    assert ((np.abs(lengths - 1) < 1e-5) | (lengths == 0)).all()
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(ENCODER.encode([text])[0], vector)


def test_no_words_are_zeros() -> None:
    """Empty and punctuation only."""
    assert not ENCODER.encode([b"", b" ;.()\n", b"\x00"]).any()


WORDS = ("r\u00e9d apple pie", "R\u00c9D apple PIE", "pie apple r\u00e9d", "r\u00e0d apple pie", "green tea")


def test_words_and_their_order_count() -> None:
    """Case doesn't, in any script; bigrams and accents do."""
    same, upper, swapped, accent, other = ENCODER.encode([text.encode() for text in WORDS])
    np.testing.assert_array_equal(same, upper)
    assert same @ swapped < 0.99
    assert same @ accent < 0.99
    assert same @ other < same @ swapped


@pytest.mark.parametrize(("text", "part"), [("\U0001f600\U0001f680", "\U0001f600"), ("\u7ea2\u8272\u8f66", "\u7ea2"), ("\ud55c\uad6d", "\ud55c")])
def test_scripts_without_spaces_are_not_one_word(text: str, part: str) -> None:
    """Emoji, Chinese, Korean: a text shares something with its first character."""
    whole, first = HashingTextEncoder(TextEncoderConfig(width=4096)).encode([text.encode(), part.encode()])
    assert whole @ first > 0.3


def test_hash_is_pinned() -> None:
    """A literal vector: another library's hash would change every tokenizer's codes without its fingerprint."""
    vector = HashingTextEncoder(TextEncoderConfig(width=8, max_ngram=1)).encode([b"apple banana cherry"])[0]
    assert {int(place): round(float(vector[place]), 4) for place in np.flatnonzero(vector)} == {0: 0.5774, 1: -0.5774, 6: -0.5774}


def test_identity_says_what_decides_the_vectors() -> None:
    """Two encoders with one identity agree; other sizes are another identity."""
    assert text_encoder(TextEncoderConfig(width=64), TextModelConfig()).identity == ENCODER.identity
    configs = (TextEncoderConfig(), TextEncoderConfig(width=64), TextEncoderConfig(max_ngram=1))
    identities = [text_encoder(config, TextModelConfig()).identity for config in configs]
    assert all(first != other for i, first in enumerate(identities) for other in identities[i + 1 :])
    assert ENCODER.library.startswith("scikit-learn ")
