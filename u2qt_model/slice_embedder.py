"""Stage 1: the present slices of one source as vectors, before any learning. Knows which kind takes which path.

N chosen rows, U distinct slices, E the source's width.
"""

import numpy as np
from numpy.typing import NDArray

from u2qt_model.batch import EventSlices, FeatureBatch
from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.errors import BatchError
from u2qt_model.profile_features import profile_vectors
from u2qt_model.text_encoders import TextEncoder, text_encoder

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class SliceEmbedder:
    """One embedding per slice; equal texts are embedded once."""

    def __init__(self, layout: FeatureLayout, config: TokenizerConfig) -> None:
        self._layout = layout
        self._id_buckets = config.encoder.id_buckets
        self.text_encoder: TextEncoder = text_encoder(config.text)

    def width(self, source: int) -> int:
        """E of the source at this position of the layout."""
        described = self._layout.sources[source]
        return self.text_encoder.width if described.kind == "events" else described.num_values + self._id_buckets

    def present_rows(self, batch: FeatureBatch, source: int) -> Indices:
        """(N,) the rows of `batch` that have the source, ascending."""
        return np.flatnonzero(batch.slices[self._layout.source_names[source]].present)

    def distinct(self, batch: FeatureBatch, source: int, rows: Indices) -> tuple[Floats, Indices]:
        """float32 (U, E) and the position (N,) of each row's embedding in it; BatchError for NaN or infinity."""
        name = self._layout.source_names[source]
        slices = batch.slices[name]
        if isinstance(slices, EventSlices):
            texts, inverse = np.unique(slices.texts[rows], return_inverse=True)
            vectors = self.text_encoder.encode(texts.tolist())
        else:
            inverse = np.arange(len(rows))
            vectors = profile_vectors(slices.values[rows], slices.ids[rows], self._id_buckets)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = int(rows[np.argmin(finite[inverse])])
            label = f"row {row}" if batch.row_hash is None else f"row_hash {batch.row_hash[row]}"
            raise BatchError(f"{name}: {label}: its embedding isn't finite, expected finite numbers")
        return vectors, inverse

    def embed(self, batch: FeatureBatch, source: int, rows: Indices) -> Floats:
        """float32 (N, E), one row per chosen row."""
        vectors, inverse = self.distinct(batch, source, rows)
        return vectors[inverse]
