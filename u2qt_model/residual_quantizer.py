"""The learned quantizer (depth layout): per source a near-identity encoder and decoder around shared and own codebooks.

The networks start as the identity, so its start is residual k-means with the same tables (`rq_kmeans`).
R rows, D dimensions.
"""

from typing import cast

import torch
from torch import Tensor, nn

from u2qt_model.config import QuantizerConfig
from u2qt_model.quantizer import Quantized, Quantizer
from u2qt_model.slice_encoder import NearIdentity


class ResidualQuantizer(Quantizer):
    """Encoder -> L residual codes -> decoder, per source."""

    trainable = True

    def __init__(self, num_sources: int, code_dim: int, hidden: int, config: QuantizerConfig, generator: torch.Generator) -> None:
        super().__init__(num_sources, code_dim, config)
        self._commitment = config.commitment
        self.encoders = nn.ModuleList(NearIdentity(code_dim, hidden, generator) for _ in range(num_sources))
        self.decoders = nn.ModuleList(NearIdentity(code_dim, hidden, generator) for _ in range(num_sources))

    def to_latent(self, x: Tensor, source: int) -> Tensor:
        """(R, D) of (R, D)."""
        return cast(Tensor, self.encoders[source](x))

    def from_latent(self, quantized: Tensor, source: int) -> Tensor:
        """(R, D) of (R, D)."""
        return cast(Tensor, self.decoders[source](quantized))

    def loss(self, x: Tensor, source: int) -> tuple[Tensor, Quantized]:
        """Summed reconstruction error + beta commitment (1711.00937, eq. 3; codebooks move by averages), and the codes.

        The gradient passes the quantizer straight through.
        """
        latent = self.to_latent(x, source)
        with torch.no_grad():
            found = self.codebooks.quantize(latent.detach(), source)
        straight = latent + (found.quantized - latent).detach()
        reconstruction = (self.from_latent(straight, source) - x).square().sum()
        return reconstruction + self._commitment * (latent - found.quantized).square().sum(), found
