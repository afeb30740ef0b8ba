"""Joint refinement: with the codes given, the codewords of all levels that reconstruct the latents best, at once.

Residual k-means fits each level to what the levels before left; this fits all of them to the latents. For latents x_i
with codes c_i the codewords C minimise sum_i |x_i - sum_l C[c_il]|^2 + pull |C - C_before|^2, a linear least-squares
problem (Babenko and Lempitsky, Additive quantization, CVPR 2014, section 3.2). Its normal equations are sums over
slices, so that memory doesn't grow with them; own codewords of two sources never meet in a slice, so that their matrix is
an arrow: shared x shared, and per source own x own and own x shared.

N slices, S sources, L levels, P shared and Q own codewords of a source over all levels, D dimensions.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from u2qt_model.quantizer import CodebookStack
from u2qt_model.restarts import restart_dead, used_codes

REVIVALS = 4  # at most
PULL = 1.0  # of the codewords before, in slices: codes with few members stay near them


class NormalEquations:
    """Sums of codes and latents. Memory: P^2 + S (Q^2 + P Q) doubles."""

    def __init__(self, codebooks: CodebookStack) -> None:
        self._codebooks, config = codebooks, codebooks.config
        self._num_shared, self._num_own = codebooks.shared[..., 0].numel(), codebooks.own[0, ..., 0].numel()
        size = self._num_shared + self._num_own
        dim = codebooks.own.shape[-1]
        self._sources = range(codebooks.num_sources)
        self._shared = torch.zeros(self._num_shared, self._num_shared, dtype=torch.float64)
        self._own = [torch.zeros(self._num_own, size, dtype=torch.float64) for _ in self._sources]  # columns: shared, own
        self._shared_sums = torch.zeros(self._num_shared, dim, dtype=torch.float64)
        self._own_sums = [torch.zeros(self._num_own, dim, dtype=torch.float64) for _ in self._sources]
        levels = range(config.num_levels)
        self._shared_sizes = torch.tensor([config.shared_size(level) for level in levels])
        shared_first = [level * config.codebook_size for level in levels]
        own_size = config.own_size or config.codebook_size
        own_first = [self._num_shared + (level - config.first_own_level) * own_size - config.shared_size(level) for level in levels]
        self._shared_first, self._own_first = torch.tensor(shared_first), torch.tensor(own_first)

    def places(self, codes: Tensor) -> Tensor:
        """(N, l): the row of each code's codeword among its source's P + Q, for the first l levels."""
        levels = slice(codes.shape[1])
        return codes + torch.where(codes < self._shared_sizes[levels], self._shared_first[levels], self._own_first[levels])

    def add(self, latents: Tensor, codes: Tensor, source: int) -> None:
        """Counts latents (N, D) of a source that have codes (N, l)."""
        places, wide = self.places(codes), latents.double()
        for level in range(places.shape[1]):
            row, is_own = places[:, level], places[:, level] >= self._num_shared
            self._shared_sums.index_add_(0, row[~is_own], wide[~is_own])
            self._own_sums[source].index_add_(0, row[is_own] - self._num_shared, wide[is_own])
            for other in range(places.shape[1]):
                column = places[:, other]
                both_shared = ~is_own & (column < self._num_shared)
                _count(self._shared, row[both_shared], column[both_shared])
                _count(self._own[source], row[is_own] - self._num_shared, column[is_own])

    def solve(self) -> None:
        """Sets the codewords. A code without a member stays as it is; so do closed ones, which have none."""
        shared, own = self._codebooks.shared, self._codebooks.own
        before = shared.reshape(self._num_shared, shared.shape[-1]).double()
        matrix, sums = self._shared.clone(), self._shared_sums + PULL * before
        matrix.diagonal().add_(PULL)
        eliminated = []
        for source in self._sources:
            crossing, square = self._own[source][:, : self._num_shared], self._own[source][:, self._num_shared :].clone()
            square.diagonal().add_(PULL)
            wanted = self._own_sums[source] + PULL * own[source].reshape(self._num_own, own.shape[-1]).double()
            by_own = torch.linalg.solve(square, torch.cat([crossing, wanted], dim=1))
            matrix -= crossing.T @ by_own[:, : self._num_shared]
            sums -= crossing.T @ by_own[:, self._num_shared :]
            eliminated.append(by_own)
        found = torch.linalg.solve(matrix, sums)
        shared.copy_(found.view(shared.shape))
        for source, by_own in zip(self._sources, eliminated, strict=True):
            own[source].copy_((by_own[:, self._num_shared :] - by_own[:, : self._num_shared] @ found).view(own[source].shape))


def _count(pairs: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Adds 1 at each (row, column)."""
    ones = torch.ones(len(rows), dtype=pairs.dtype)
    pairs.view(-1).index_add_(0, rows * pairs.shape[1] + columns, ones)


@torch.no_grad()
def refine_jointly(codebooks: CodebookStack, latents: list[Tensor], measure: Callable[[], float]) -> list[float]:
    """`joint_rounds` rounds on S samples (N, D): codes by beam, then codewords; keeps the round that measures least.

    Codes that the kept round left without a slice move onto one once more, where that measures no more. Returns what
    `measure` gave before and after each round and each such move.
    """
    errors, best = [measure()], copy.deepcopy(codebooks.state_dict())
    for _ in range(codebooks.config.joint_rounds):
        codes = [codebooks.encode(x, source) for source, x in enumerate(latents)]
        if codebooks.config.restart_dead:
            restart_dead(codebooks, latents, codes, used_codes(codebooks, codes))
        equations = NormalEquations(codebooks)
        for source, x in enumerate(latents):
            equations.add(x, codes[source], source)
        equations.solve()
        errors.append(measure())
        if errors[-1] < min(errors[:-1]):
            best = copy.deepcopy(codebooks.state_dict())
    codebooks.load_state_dict(best)
    return errors + (_revived(codebooks, latents, measure, min(errors)) if codebooks.config.restart_dead else [])


def _revived(codebooks: CodebookStack, latents: list[Tensor], measure: Callable[[], float], error: float) -> list[float]:
    errors: list[float] = []
    for _ in range(REVIVALS):
        before = copy.deepcopy(codebooks.state_dict())
        codes = [codebooks.encode(x, source) for source, x in enumerate(latents)]
        moved = restart_dead(codebooks, latents, codes, used_codes(codebooks, codes))
        if not any(map(len, moved)):
            break
        errors.append(measure())
        if errors[-1] > min([error, *errors]):
            codebooks.load_state_dict(before)
            break
    return errors
