"""Stage 1 `text`: slice texts by a frozen encoder, the profile as a vector of its values and hashed ids. Nothing is learnt."""

from dataclasses import dataclass

import numpy as np

from u2qt_model.batch import EventSlices, FeatureBatch, Objects
from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.profile_features import profile_vectors
from u2qt_model.slice_embedder import Floats, Indices, SliceEmbedder
from u2qt_model.text_encoders import TextEncoder, text_encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class _Embedded:
    """A batch and the vectors of all its texts, of U different ones."""

    batch: FeatureBatch
    texts: Objects  # (U,) ascending
    vectors: Floats  # (U, E)


class TextEmbedder(SliceEmbedder):
    """Equal texts are embedded once, by a costly encoder once per batch and not per source; its last batch is kept: U x 4 E bytes."""

    def __init__(self, layout: FeatureLayout, config: TokenizerConfig) -> None:
        super().__init__(layout)
        self._id_buckets = config.encoder.id_buckets
        self.text_encoder: TextEncoder = text_encoder(config.text, config.text_model)
        self._last: _Embedded | None = None

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
        if isinstance(slices, EventSlices) and self.text_encoder.embeds_batches:
            kept = self._embedded(batch)
            places, inverse = np.unique(np.searchsorted(kept.texts, slices.texts[rows]), return_inverse=True)
            return kept.vectors[places], inverse
        if isinstance(slices, EventSlices):
            texts, inverse = np.unique(slices.texts[rows], return_inverse=True)
            return self.text_encoder.encode(texts.tolist()), inverse
        return profile_vectors(slices.values[rows], slices.ids[rows], self._id_buckets), np.arange(len(rows))

    def _embedded(self, batch: FeatureBatch) -> _Embedded:
        last = self._last  # read once: another thread of the task may put its own batch there
        if last is None or last.batch is not batch:
            given = [slices.texts[slices.present] for slices in batch.slices.values() if isinstance(slices, EventSlices)]
            texts = np.unique(np.concatenate(given)) if given else np.empty(0, object)
            last = self._last = _Embedded(batch=batch, texts=texts, vectors=self.text_encoder.encode(texts.tolist()))
        return last
