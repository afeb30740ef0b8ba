"""Stage 1 `qformer`: a frozen Q-Former over event arrays; a slice's embedding is its source's queries side by side.

Side by side and not their mean: the projection after it takes the leading axes of whatever is there, so a mean could only
lose. Embeddings don't depend on batch size, row order or padding: the network runs on blocks of exactly `block_users` users
(the last one filled up with users without any source) and on a fixed number of threads.

B users, S sources, q queries per source, E width of a query.
"""

import numpy as np
import torch

from u2qt_model.batch import FeatureBatch
from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.event_tensors import source_events
from u2qt_model.qformer import QFormer
from u2qt_model.slice_embedder import Floats, Indices, SliceEmbedder
from u2qt_model.threads import fixed_threads


class QFormerEmbedder(SliceEmbedder):
    """Every source of a user comes out of one run of the network, so the last batch's embeddings are kept: B x S x 4 q E bytes.

    `network` must not change once a batch was embedded.
    """

    network: QFormer

    def __init__(self, layout: FeatureLayout, config: TokenizerConfig) -> None:
        super().__init__(layout)
        self._encoding = config.encoding
        self.network = QFormer(layout, config)
        self._last: tuple[FeatureBatch, Floats] | None = None

    @property
    def text_encoder_identity(self) -> dict[str, str | int]:
        """There is none."""
        return {"kind": "none"}

    def width(self, source: int) -> int:
        """q E."""
        return self.network.slice_width

    def _vectors(self, batch: FeatureBatch, source: int, rows: Indices) -> tuple[Floats, Indices]:
        last = self._last  # read once: another thread of the task may put its own batch there
        if last is None or last[0] is not batch:
            last = self._last = (batch, self._embedded(batch))
        return last[1][rows, source], np.arange(len(rows))

    def _embedded(self, batch: FeatureBatch) -> Floats:
        """float32 (B, S, q E); rows of absent sources have no meaning."""
        size = self._encoding.block_users
        found = np.empty((batch.num_users, len(self._layout.sources), self.network.slice_width), np.float32)
        with torch.inference_mode(), fixed_threads(self._encoding.threads):
            for start in range(0, batch.num_users, size):
                rows = np.arange(start, min(start + size, batch.num_users))
                slices = self.network(source_events(batch, self._layout, rows, size)).slices
                found[rows] = slices[: len(rows)].numpy()
        return found
