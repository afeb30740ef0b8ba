"""The learned quantizer: per source a near-identity encoder and decoder around shared and own codebooks, or neither.

The networks start as the identity, so its start is residual k-means with the same blocks (`rq_kmeans`).
R rows, D dimensions.
"""

from typing import cast

import torch
from torch import Tensor, nn

from u2qt_model.config import QuantizerConfig
from u2qt_model.gradients import rotated, straight_through
from u2qt_model.quantizer import Quantizer
from u2qt_model.slice_encoder import NearIdentity


class ResidualQuantizer(Quantizer):
    """Encoder -> L residual codes -> decoder, per source."""

    trainable = True

    def __init__(self, num_sources: int, code_dim: int, hidden: int, config: QuantizerConfig, generator: torch.Generator) -> None:
        """`hidden` 0: no networks."""
        super().__init__(num_sources, code_dim, config)
        self._commitment = config.commitment
        self._past = rotated if config.gradient == "rotation" else straight_through
        sides = [[NearIdentity(code_dim, hidden, generator) if hidden else nn.Identity() for _ in range(num_sources)] for _ in range(2)]
        self.encoders, self.decoders = map(nn.ModuleList, sides)

    def to_latent(self, x: Tensor, source: int) -> Tensor:
        """(R, D) of (R, D)."""
        return cast(Tensor, self.encoders[source](x))

    def from_latent(self, quantized: Tensor, source: int) -> Tensor:
        """(R, D) of (R, D)."""
        return cast(Tensor, self.decoders[source](quantized))

    def loss(self, x: Tensor, latent: Tensor, codes: Tensor, source: int) -> Tensor:
        """Summed reconstruction error + beta commitment (1711.00937, eq. 3) of `latent`, which has `codes` (R, l).

        Codebooks that require gradients get theirs from a third term, |sg(latent) - quantized|^2.
        """
        looked_up = self.codebooks.lookup(codes, source)
        quantized = looked_up.detach()
        reconstruction = (self.from_latent(self._past(latent, quantized), source) - x).square().sum()
        loss = reconstruction + self._commitment * (latent - quantized).square().sum()
        return loss + (latent.detach() - looked_up).square().sum() if looked_up.requires_grad else loss
