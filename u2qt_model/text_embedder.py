"""Stage 1 `text`: slice texts by a frozen encoder, the profile as a vector of its values and hashed ids. Nothing is learnt."""

import numpy as np

from u2qt_model.batch import EventSlices, FeatureBatch
from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.profile_features import profile_vectors
from u2qt_model.slice_embedder import Floats, Indices, SliceEmbedder
from u2qt_model.text_encoders import TextEncoder, text_encoder


class TextEmbedder(SliceEmbedder):
    """Equal texts are embedded once."""

    def __init__(self, layout: FeatureLayout, config: TokenizerConfig) -> None:
        super().__init__(layout)
        self._id_buckets = config.encoder.id_buckets
        self.text_encoder: TextEncoder = text_encoder(config.text)

    @property
    def text_encoder_identity(self) -> dict[str, str | int]:
        """The text encoder's."""
        return self.text_encoder.identity

    def width(self, source: int) -> int:
        """The text encoder's width, or that of the profile's vector."""
        described = self._layout.sources[source]
        return self.text_encoder.width if described.kind == "events" else described.num_values + self._id_buckets

    def _vectors(self, batch: FeatureBatch, source: int, rows: Indices) -> tuple[Floats, Indices]:
        slices = batch.slices[self._layout.source_names[source]]
        if isinstance(slices, EventSlices):
            texts, inverse = np.unique(slices.texts[rows], return_inverse=True)
            return self.text_encoder.encode(texts.tolist()), inverse
        return profile_vectors(slices.values[rows], slices.ids[rows], self._id_buckets), np.arange(len(rows))
