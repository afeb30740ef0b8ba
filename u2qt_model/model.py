"""The weights of a tokenizer: stage 1's, one projection per source and a quantizer. What a checkpoint's safetensors hold.

S sources, R rows, E a source's embedding width, D code dimension.
"""

from typing import cast

import torch
from torch import Tensor, nn

from u2qt_model.config import FeatureLayout, QuantizerConfig, TokenizerConfig
from u2qt_model.quantizer import Quantizer
from u2qt_model.residual_quantizer import ResidualQuantizer
from u2qt_model.rq_kmeans import RqKmeans
from u2qt_model.slice_embedder import SliceEmbedder
from u2qt_model.slice_encoder import Projection
from u2qt_model.source_quantizers import Part, SourceQuantizers, shares


class TokenizerModel(nn.Module):
    """Embedding -> projected slice -> codes, and codes -> projected slice, for each source by its position."""

    seen: Tensor  # (S,) int64, slices of each source in training; 0 means it was never trained

    def __init__(self, layout: FeatureLayout, config: TokenizerConfig, embedder: SliceEmbedder) -> None:
        super().__init__()
        encoder, sources = config.encoder, range(len(layout.sources))
        projections = (Projection(embedder.width(source), encoder.code_dim, encoder.clip) for source in sources)
        self.stage1 = embedder.network  # None where stage 1 has no weights
        self.projections = nn.ModuleList(projections)
        made = [_quantizer(len(own), config, settings) for settings, own in shares(layout, config.quantizer)]
        self.quantizer, self.profile_quantizer = (*made, None)[:2]  # the second where the profile has one of its own
        parts = zip(made, shares(layout, config.quantizer), strict=True)
        self.quantizers = SourceQuantizers([Part(quantizer=quantizer, sources=own) for quantizer, (_, own) in parts])
        self.register_buffer("seen", torch.zeros(len(sources), dtype=torch.int64))

    def projection(self, source: int) -> Projection:
        """The source's projection."""
        return cast(Projection, self.projections[source])

    def project(self, embeddings: Tensor, source: int) -> Tensor:
        """(R, D) of (R, E)."""
        return cast(Tensor, self.projections[source](embeddings))


def _quantizer(num_sources: int, config: TokenizerConfig, settings: QuantizerConfig) -> Quantizer:
    if settings.kind == "rq_kmeans":
        return RqKmeans(num_sources, config.encoder.code_dim, settings)
    generator = torch.Generator().manual_seed(config.training.seed)
    return ResidualQuantizer(num_sources, config.encoder.code_dim, config.encoder.hidden, settings, generator)
