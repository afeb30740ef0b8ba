"""Codes of latents: the beam's best sequences of one code per level. The only search there is; greedy is a beam of 1.

R rows, B beam, L levels, K codes of a level, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 4096  # rows of a matrix product
GROUP = 32  # codes of which the least is found first


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One level of one source, prepared."""

    codewords: Tensor  # (K, D)
    half_norms: Tensor  # (K,), half the squared length; +inf where the code is closed

    @classmethod
    def of(cls, codewords: Tensor, is_open: Tensor) -> "Table":
        """From codewords (K, D) and open (K,)."""
        half_norms = codewords.square().sum(dim=1).mul_(0.5).masked_fill_(~is_open, torch.inf)
        return cls(codewords=codewords, half_norms=half_norms)

    def scores(self, residual: Tensor) -> Tensor:
        """(R, K): half the squared distance less half |residual|^2; +inf at closed codes."""
        return torch.addmm(self.half_norms, residual, self.codewords.T, alpha=-1)


def beam_search(latent: Tensor, tables: Sequence[Table], beam: int) -> Tensor:
    """(R, L) int64 codes of latents (R, D): of B partial sequences kept per level the one that ends nearest.

    A partial sequence is as good as half |its residual|^2 - half |latent|^2, which the scores of its codes sum to. Greedy
    takes the lowest code on ties; a beam takes one of them, always the same on one build.
    """
    search = _greedy if beam == 1 else _beam
    empty = torch.zeros(0, len(tables), dtype=torch.int64)
    return torch.cat([empty, *(search(part, tables, beam) for part in torch.split(latent, CHUNK) if len(part))])


def _greedy(residual: Tensor, tables: Sequence[Table], beam: int) -> Tensor:
    codes: list[Tensor] = []
    for level, table in enumerate(tables):
        if level:
            residual = residual - tables[level - 1].codewords[codes[-1]]
        codes.append(table.scores(residual).argmin(dim=1))
    return torch.stack(codes, dim=1)


def _beam(latent: Tensor, tables: Sequence[Table], beam: int) -> Tensor:
    rows, dim = latent.shape
    residuals, totals = latent[:, None], torch.zeros(rows, 1)  # (R, B, D), (R, B)
    codes = torch.zeros(rows, 1, 0, dtype=torch.int64)  # (R, B, l)
    for level, table in enumerate(tables):
        size, last = len(table.codewords), level + 1 == len(tables)
        candidates = table.scores(residuals.reshape(-1, dim)).view(rows, -1, size) + totals[:, :, None]
        totals, places = least(candidates.view(rows, -1), 1 if last else beam)
        parents, chosen = places // size, places % size
        codes = torch.cat([_picked(codes, parents), chosen[:, :, None]], dim=2)
        if not last:
            residuals = _picked(residuals, parents) - table.codewords[chosen]
    return codes[:, 0]


def least(values: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The `number` least of each row of (R, N), or all N, and their places (R, number); in no order beyond the first of one.

    Groups of 32 first: the `number` least lie in the groups with the `number` least minima.
    """
    rows, width = values.shape
    if number == 1:
        places = values.argmin(dim=1, keepdim=True)
        return values.gather(1, places), places
    if width % GROUP or width // GROUP <= number:
        return torch.topk(values, min(number, width), dim=1, largest=False, sorted=False)
    grouped = values.view(rows, -1, GROUP)
    groups = torch.topk(grouped.amin(dim=2), number, dim=1, largest=False, sorted=False).indices
    inside = _picked(grouped, groups).view(rows, -1)
    found, places = torch.topk(inside, number, dim=1, largest=False, sorted=False)
    return found, groups.gather(1, places // GROUP) * GROUP + places % GROUP


def _picked(values: Tensor, places: Tensor) -> Tensor:
    """(R, M, N) of `values` (R, *, N) at places (R, M)."""
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))
