"""The interface of the residual quantizers, and the codebook stack they share: Lc shared levels, then own ones.

A quantizer maps a projected slice to L codes and codes back to a vector; what lies between projection and codebooks
(networks or nothing) is its subclass's. R rows, S sources, L levels (Lc shared, Lo own), K codes, D dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from u2qt_model.codebooks import kmeans, nearest, scores
from u2qt_model.config import QuantizerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """R slices of one source, quantized."""

    codes: Tensor  # (R, L) int64
    quantized: Tensor  # (R, D), the sum of the codewords
    residuals: tuple[Tensor, ...]  # L x (R, D), what each level was given
    margins: Tensor | None  # (R, L), squared distance of the second best code less the best's, where asked for


class CodebookStack(nn.Module):
    """All codebooks. Level l of source s is one table: shared[l], or own[s, l - Lc]."""

    shared: Tensor  # (Lc, K, D)
    shared_open: Tensor  # (Lc, K) bool
    own: Tensor  # (S, Lo, K, D)
    own_open: Tensor  # (S, Lo, K) bool

    def __init__(self, num_sources: int, code_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.num_sources = num_sources
        size = config.codebook_size
        self.register_buffer("shared", torch.zeros(config.shared_levels, size, code_dim))
        self.register_buffer("shared_open", torch.zeros(config.shared_levels, size, dtype=torch.bool))
        self.register_buffer("own", torch.zeros(num_sources, config.own_levels, size, code_dim))
        self.register_buffer("own_open", torch.zeros(num_sources, config.own_levels, size, dtype=torch.bool))

    def is_shared(self, level: int) -> bool:
        """Whether the level (from 0) has one table for all sources."""
        return level < self.config.shared_levels

    def table(self, source: int, level: int) -> tuple[Tensor, Tensor]:
        """Views: codewords (K, D) and open (K,) of a source at a level (from 0)."""
        if self.is_shared(level):
            return self.shared[level], self.shared_open[level]
        return self.own[source, level - self.config.shared_levels], self.own_open[source, level - self.config.shared_levels]

    def quantize(self, latent: Tensor, source: int, *, margins: bool = False) -> Quantized:
        """Greedy: each level takes the code nearest to what is left; the lowest code on ties."""
        residual, codes, residuals, gaps = latent, [], [], []
        for level in range(self.config.num_levels):
            codewords, is_open = self.table(source, level)
            level_scores = scores(residual, codewords, is_open)
            chosen = level_scores.argmin(dim=1)
            if margins:
                best = level_scores.topk(2, dim=1, largest=False).values
                gaps.append((2 * (best[:, 1] - best[:, 0])).nan_to_num(0.0).clamp_(0, torch.finfo(torch.float32).max))
            codes.append(chosen)
            residuals.append(residual)
            residual = residual - codewords[chosen]
        return Quantized(
            codes=torch.stack(codes, dim=1),
            quantized=latent - residual,
            residuals=tuple(residuals),
            margins=torch.stack(gaps, dim=1) if margins else None,
        )

    def lookup(self, codes: Tensor, source: int) -> Tensor:
        """(R, D), the sum of the codewords of `codes` (R, l), l levels from the first."""
        total = torch.zeros(len(codes), self.own.shape[-1])
        for level in range(codes.shape[1]):
            total += self.table(source, level)[0][codes[:, level]]
        return total

    def start(self, latents: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        """Residual k-means on S samples (N_s, D), some maybe empty; members (K,) per block, as `blocks` orders them."""
        residuals, members = list(latents), []
        for level, sources in self.blocks():
            pooled = torch.cat([residuals[source] for source in sources])
            codewords, is_open, counts = kmeans(pooled, self.config.codebook_size, self.config.kmeans_iterations, generator)
            table, table_open = self.table(sources[0], level)
            table.copy_(codewords)
            table_open.copy_(is_open)
            members.append(counts)
            for source in sources:
                if len(residuals[source]):
                    residuals[source] = residuals[source] - table[nearest(residuals[source], table, table_open)]
        return members

    def blocks(self) -> list[tuple[int, list[int]]]:
        """Every table once, as (level from 0, its sources): shared levels, then level by level each source's own."""
        everyone = list(range(self.num_sources))
        shared = [(level, everyone) for level in range(self.config.shared_levels)]
        own_levels = range(self.config.shared_levels, self.config.num_levels)
        return shared + [(level, [source]) for level in own_levels for source in everyone]


class Quantizer(nn.Module):
    """Projected slice -> codes -> projected slice. No networks here; a subclass puts them around the codebooks."""

    trainable = False  # whether epochs after the start change it

    def __init__(self, num_sources: int, code_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.codebooks = CodebookStack(num_sources, code_dim, config)

    def to_latent(self, x: Tensor, source: int) -> Tensor:
        """(R, D) that the codebooks quantize, of projected slices (R, D)."""
        return x

    def from_latent(self, quantized: Tensor, source: int) -> Tensor:
        """The inverse side: (R, D) in the space of projected slices."""
        return quantized

    def quantize(self, x: Tensor, source: int, *, margins: bool = False) -> Quantized:
        """Codes of projected slices (R, D)."""
        return self.codebooks.quantize(self.to_latent(x, source), source, margins=margins)

    def reconstruct(self, codes: Tensor, source: int) -> Tensor:
        """(R, D) projected slices that codes (R, l) of the first l levels stand for."""
        return self.from_latent(self.codebooks.lookup(codes, source), source)
