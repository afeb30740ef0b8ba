"""The interface of the residual quantizers, and the codebooks they share, in layout `depth` or `width`.

A quantizer maps a projected slice to L codes and codes back to a vector; what lies between projection and codebooks
(networks or nothing) is its subclass's. R rows, S sources, L levels, K codes of a level, D dimensions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from u2qt_model.beam_search import Table, beam_search, prepared
from u2qt_model.blocks import Block, blocks
from u2qt_model.codebooks import scores
from u2qt_model.config import QuantizerConfig

FARTHEST = torch.finfo(torch.float32).max


class CodebookStack(nn.Module):
    """All codebooks. A level of a source is one table: its shared block, its own block, or one beside the other."""

    shared: Tensor  # (shared levels, K, D)
    shared_open: Tensor  # (shared levels, K) bool
    own: Tensor  # (S, own levels, K, D)
    own_open: Tensor  # (S, own levels, K) bool

    def __init__(self, num_sources: int, code_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config, self.num_sources = config, num_sources
        shared = (config.shared_levels, config.codebook_size)
        own = (num_sources, config.own_levels, config.own_size or config.codebook_size)
        self.register_buffer("shared", torch.zeros(*shared, code_dim))
        self.register_buffer("shared_open", torch.zeros(shared, dtype=torch.bool))
        self.register_buffer("own", torch.zeros(*own, code_dim))
        self.register_buffer("own_open", torch.zeros(own, dtype=torch.bool))
        self._frozen: tuple[tuple[Table, ...], ...] = ()

    def blocks(self) -> list[Block]:
        """Every block once, in a fixed order."""
        return blocks(self.config, self.num_sources)

    def block(self, block: Block) -> tuple[Tensor, Tensor]:
        """Views: codewords (K, D) and open (K,) of a block."""
        if block.source is None:
            return self.shared[block.level], self.shared_open[block.level]
        level = block.level - self.config.first_own_level
        return self.own[block.source, level], self.own_open[block.source, level]

    def table(self, source: int, level: int) -> tuple[Tensor, Tensor]:
        """Codewords (K, D) and open (K,) that a source reaches on a level (from 0); a view where it is one block."""
        own_level = level - self.config.first_own_level
        if not self.config.own_block_size(level):
            return self.shared[level], self.shared_open[level]
        own = self.own[source, own_level], self.own_open[source, own_level]
        if not self.config.shared_size(level):
            return own
        return torch.cat([self.shared[level], own[0]]), torch.cat([self.shared_open[level], own[1]])

    def encode(self, latent: Tensor, source: int, levels: int | None = None) -> Tensor:
        """(R, L) int64 codes of latents (R, D), by the configured beam; of the first `levels` only where given."""
        tables = self._frozen[source] if self._frozen else self._prepared(source)
        return beam_search(latent, tables[:levels], self.config.beam)

    def freeze(self) -> None:
        """Prepares the search once and for all: the codewords won't change any more."""
        self._frozen = tuple(self._prepared(source) for source in range(self.num_sources))

    def _prepared(self, source: int) -> tuple[Table, ...]:
        levels = [self.table(source, level) for level in range(self.config.num_levels)]
        return prepared(levels, crossings=self.config.beam > 1)

    def residuals(self, latent: Tensor, codes: Tensor, source: int) -> Iterator[Tensor]:
        """L + 1 times (R, D): what is left before each level of codes (R, L), and after the last."""
        yield latent
        for level in range(codes.shape[1]):
            latent = latent - self.table(source, level)[0][codes[:, level]]
            yield latent

    def margins(self, latent: Tensor, codes: Tensor, source: int) -> Tensor:
        """(R, L): squared distance of the best other code of each level less that of the given one, the levels before as given.

        Negative where a beam passed over the nearest code; the largest float32 where no other code is open.
        """
        gaps = []
        for level, residual in zip(range(codes.shape[1]), self.residuals(latent, codes, source), strict=False):
            found = scores(residual, *self.table(source, level))
            given = found.gather(1, codes[:, level, None])
            best_other = found.scatter(1, codes[:, level, None], torch.inf).amin(dim=1)
            gaps.append((2 * (best_other - given[:, 0])).nan_to_num(0.0).clamp(-FARTHEST, FARTHEST))
        return torch.stack(gaps, dim=1)

    def lookup(self, codes: Tensor, source: int) -> Tensor:
        """(R, D), the sum of the codewords of `codes` (R, l), l levels from the first."""
        total = self.own.new_zeros(len(codes), self.own.shape[-1])
        for level in range(codes.shape[1]):
            total = total + self.table(source, level)[0][codes[:, level]]
        return total


class Quantizer(nn.Module):
    """Projected slice -> codes -> projected slice. No networks here; a subclass puts them around the codebooks."""

    trainable = False  # whether it has networks, or refines its codebooks after the start

    def __init__(self, num_sources: int, code_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.codebooks = CodebookStack(num_sources, code_dim, config)

    def to_latent(self, x: Tensor, source: int) -> Tensor:
        """(R, D) that the codebooks quantize, of projected slices (R, D)."""
        return x

    def from_latent(self, quantized: Tensor, source: int) -> Tensor:
        """The inverse side: (R, D) in the space of projected slices."""
        return quantized

    def encode(self, x: Tensor, source: int) -> Tensor:
        """(R, L) int64 codes of projected slices (R, D)."""
        return self.codebooks.encode(self.to_latent(x, source), source)

    def margins(self, x: Tensor, codes: Tensor, source: int) -> Tensor:
        """(R, L) margins of the codes (R, L) of projected slices; see `CodebookStack.margins`."""
        return self.codebooks.margins(self.to_latent(x, source), codes, source)

    def reconstruct(self, codes: Tensor, source: int) -> Tensor:
        """(R, D) projected slices that codes (R, l) of the first l levels stand for."""
        return self.from_latent(self.codebooks.lookup(codes, source), source)
