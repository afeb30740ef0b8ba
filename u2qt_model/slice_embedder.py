"""Stage 1: the present slices of one source as vectors, before any quantizer. What its two kinds have in common.

N chosen rows, U distinct slices, E the source's width.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import nn

from u2qt_model.batch import FeatureBatch
from u2qt_model.config import FeatureLayout
from u2qt_model.errors import BatchError

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class SliceEmbedder(ABC):
    """One embedding per slice."""

    network: nn.Module | None = None  # weights that a checkpoint has to hold

    def __init__(self, layout: FeatureLayout) -> None:
        self._layout = layout

    @property
    @abstractmethod
    def text_encoder_identity(self) -> dict[str, str | int]:
        """What decides its vectors besides configuration and weights; part of the fingerprint."""

    @abstractmethod
    def width(self, source: int) -> int:
        """E of the source at this position of the layout."""

    @abstractmethod
    def _vectors(self, batch: FeatureBatch, source: int, rows: Indices) -> tuple[Floats, Indices]:
        """As `distinct`, unchecked."""

    def present_rows(self, batch: FeatureBatch, source: int) -> Indices:
        """(N,) the rows of `batch` that have the source, ascending."""
        return np.flatnonzero(batch.slices[self._layout.source_names[source]].present)

    def distinct(self, batch: FeatureBatch, source: int, rows: Indices) -> tuple[Floats, Indices]:
        """float32 (U, E) and the position (N,) of each row's embedding in it; BatchError for NaN or infinity."""
        vectors, inverse = self._vectors(batch, source, rows)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = int(rows[np.argmin(finite[inverse])])
            label = f"row {row}" if batch.row_hash is None else f"row_hash {batch.row_hash[row]}"
            raise BatchError(f"{self._layout.source_names[source]}: {label}: its embedding isn't finite, expected finite numbers")
        return vectors, inverse

    def embed(self, batch: FeatureBatch, source: int, rows: Indices) -> Floats:
        """float32 (N, E), one row per chosen row."""
        vectors, inverse = self.distinct(batch, source, rows)
        return vectors[inverse]
