"""How a loss behind the quantizer reaches the encoder before it. R rows, D dimensions."""

import torch
from torch import Tensor

SHORTEST = 1e-12


def straight_through(latent: Tensor, quantized: Tensor) -> Tensor:
    """(R, D) `quantized` with the gradient of `latent` (Bengio 2013; 1711.00937, section 3.2)."""
    return latent + (quantized - latent).detach()


def rotated(latent: Tensor, quantized: Tensor) -> Tensor:
    """(R, D) `quantized` as a fixed rotation and scaling of `latent`, through which the gradient flows (2410.06424, section 4.2).

    A latent of length zero has no direction to turn: its gradient goes straight through.
    R e with r = (e^ + q^) / |e^ + q^|: (I - 2 r r^T + 2 q^ e^T) e |q| / |e|.
    """
    with torch.no_grad():
        long, scale = latent.norm(dim=1, keepdim=True), quantized.norm(dim=1, keepdim=True)
        from_, to = latent / long.clamp_min(SHORTEST), quantized / scale.clamp_min(SHORTEST)
        between = torch.nn.functional.normalize(from_ + to, dim=1)
        turns = long > SHORTEST
        scale = torch.where(turns, scale / long.clamp_min(SHORTEST), torch.zeros_like(scale))
    turned = latent - 2 * between * (between * latent).sum(dim=1, keepdim=True) + 2 * to * (from_ * latent).sum(dim=1, keepdim=True)
    return torch.where(turns, scale * turned, straight_through(latent, quantized))
