"""Frozen text encoders: slice texts to vectors. Know nothing of sources, users or codes.

N texts, E width.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer

from u2qt_model.sentence_encoder import SentenceEncoder
from u2qt_model.text_config import TextEncoderConfig, TextModelConfig

Floats = NDArray[np.float32]

# Words, but one token per emoji and per character of scripts without spaces: otherwise a whole query is one token.
WORD_PATTERN = r"(?u)[\u2600-\u27bf\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U0001f300-\U0001faff]|\w+"


class TextEncoder(Protocol):
    """A frozen map from text to a vector; equal texts give equal vectors, whatever stands beside them."""

    embeds_batches: bool  # costs so much that the texts of a whole batch go in at once, each only once

    @property
    def identity(self) -> dict[str, str | int]:
        """What decides its vectors; part of the fingerprint."""

    @property
    def width(self) -> int:
        """E."""

    def encode(self, texts: Sequence[bytes]) -> Floats:
        """float32 (N, E), finite; bytes that aren't UTF-8 count as replacement characters."""


class HashingTextEncoder:
    """Hashed word n-grams, alternating signs, unit length; needs no weights. A text without words gives zeros."""

    embeds_batches = False

    def __init__(self, config: TextEncoderConfig) -> None:
        self._config = config
        self._vectorizer = HashingVectorizer(
            n_features=config.width,
            ngram_range=(1, config.max_ngram),
            token_pattern=WORD_PATTERN,
            encoding="utf-8",
            decode_error="replace",
            dtype=np.float32,
        )

    @property
    def identity(self) -> dict[str, str | int]:
        """Kind, sizes and pattern; the hash (MurmurHash3) is documented, so scikit-learn's version isn't in it."""
        return {"kind": "hashing", "width": self.width, "max_ngram": self._config.max_ngram, "pattern": WORD_PATTERN}

    @property
    def width(self) -> int:
        """E."""
        return self._config.width

    @property
    def library(self) -> str:
        """The library and version at work, for the record."""
        return f"scikit-learn {sklearn.__version__}"

    def encode(self, texts: Sequence[bytes]) -> Floats:
        """float32 (N, E); see `TextEncoder`."""
        if not len(texts):
            return np.zeros((0, self.width), np.float32)
        return np.asarray(self._vectorizer.transform(texts).toarray(), np.float32)


def text_encoder(config: TextEncoderConfig, model: TextModelConfig) -> TextEncoder:
    """The encoder that a configuration names."""
    return HashingTextEncoder(config) if config.kind == "hashing" else SentenceEncoder(model)
