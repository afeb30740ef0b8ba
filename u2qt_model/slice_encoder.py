"""From a slice's embedding to D dimensions: a frozen projection, and the small network that starts as the identity.

The projection standardises, cuts outliers, rotates onto the leading principal axes and scales each source to mean
squared length D, so that shared codebooks see sources of equal size. M sample rows, R rows, E embedding width, D code
dimension.
"""

from typing import cast

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn


class Projection(nn.Module):
    """x -> basis^T clip((x - mean) / std) - offset. A dimension that never varied in training says nothing."""

    mean: Tensor  # (E,)
    inverse_std: Tensor  # (E,), 0 where the training data never varied
    basis: Tensor  # (E, D), principal axes times one scale; zero columns where there were fewer axes
    offset: Tensor  # (D,), the projected training mean
    kept_variance: Tensor  # (), share of the clipped, standardised sample's variance that D axes keep

    def __init__(self, width: int, code_dim: int, clip: float) -> None:
        super().__init__()
        self._clip = clip
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("inverse_std", torch.zeros(width))
        self.register_buffer("basis", torch.zeros(width, code_dim))
        self.register_buffer("offset", torch.zeros(code_dim))
        self.register_buffer("kept_variance", torch.zeros(()))

    def standardise(self, x: Tensor) -> Tensor:
        """(R, E) in training deviations, cut at plus and minus clip."""
        return ((x - self.mean) * self.inverse_std).clamp_(-self._clip, self._clip)

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) of embeddings (R, E)."""
        return torch.addmm(-self.offset, self.standardise(x), self.basis)

    def fit(self, mean: Tensor, variance: Tensor, sample: Tensor) -> None:
        """Axes from `sample` (M, E), which may be empty; moments (E,), float64, from all training slices."""
        self.mean.copy_(mean)
        varies = variance > 1e-12
        self.inverse_std.copy_(torch.where(varies, variance.clamp_min(1e-12).rsqrt(), 0.0))
        standard = self.standardise(sample)
        if not len(sample):
            return
        centre = standard.mean(dim=0)
        total = (standard - centre).square().sum() / len(sample)
        if total < 1e-6:  # only rounding: it has no axes
            return
        values, axes = principal_axes(standard - centre, self.basis.shape[1])
        scale = (self.basis.shape[1] / values.sum().clamp_min(1e-12)).sqrt()
        self.basis.zero_()[:, : axes.shape[1]] = axes * scale
        self.offset.copy_(centre @ self.basis)
        self.kept_variance.copy_(values.sum() / total.clamp_min(1e-12))


def principal_axes(centred: Tensor, num_axes: int) -> tuple[Tensor, Tensor]:
    """Falling variances (A,), axes (E, A) of rows (M, E), A = min(E, num_axes); each axis' largest entry is positive.

    By NumPy's eigh: torch's (2.13) failed to converge on 15 of 162 covariances of one to four distinct rows.
    """
    covariance = centred.T @ centred / len(centred)
    with threadpool_limits(torch.get_num_threads(), user_api="blas"):  # NumPy's own number is the environment's
        values, vectors = map(torch.from_numpy, np.linalg.eigh(covariance.double().numpy()))
    values, vectors = values.flip(0)[:num_axes].clamp_min(0).float(), vectors.flip(1)[:, :num_axes]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return values, (vectors * torch.where(largest < 0, -1.0, 1.0)).float()


class NearIdentity(nn.Module):
    """x + W2 LeakyReLU(LayerNorm(W1 x)); W2 starts at 0, so training starts from the identity."""

    def __init__(self, dim: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self._block = nn.Sequential(nn.Linear(dim, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(), nn.Linear(hidden, dim))
        first, last = cast(nn.Linear, self._block[0]), cast(nn.Linear, self._block[3])
        nn.init.xavier_uniform_(first.weight, generator=generator)
        nn.init.zeros_(first.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) of (R, D)."""
        return x + cast(Tensor, self._block(x))
