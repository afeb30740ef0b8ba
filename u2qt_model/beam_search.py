"""Codes of latents: the beam's best sequences of one code per level. The only search there is; greedy is a beam of 1.

R rows, B beam, L levels, K codes of a level, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY_ROWS, BEAM_ROWS = 1024, 256  # at a time: what they need stays in a core's cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One level of one source, prepared."""

    codewords: Tensor  # (K, D)
    half_norms: Tensor  # (K,), half the squared length; +inf where the code is closed
    crossings: tuple[Tensor, ...]  # per level before, (its K, K): inner products of its codewords with these


def prepared(levels: Sequence[tuple[Tensor, Tensor]], *, crossings: bool) -> tuple[Table, ...]:
    """Tables of codewords (K, D) and open (K,) per level; a beam of more than 1 needs the crossings."""
    return tuple(
        Table(
            codewords=codewords,
            half_norms=codewords.square().sum(dim=1).mul_(0.5).masked_fill_(~is_open, torch.inf),
            crossings=tuple(before @ codewords.T for before, _ in levels[:level]) if crossings else (),
        )
        for level, (codewords, is_open) in enumerate(levels)
    )


def beam_search(latent: Tensor, tables: Sequence[Table], beam: int) -> Tensor:
    """(R, L) int64 codes of latents (R, D): of B partial sequences kept per level the one that ends nearest.

    Greedy takes the lowest code on ties; a beam takes one of them, always the same on one build.
    """
    empty = latent.new_zeros(0, len(tables), dtype=torch.int64)
    if beam == 1:
        return torch.cat([empty, *(_greedy(part, tables) for part in torch.split(latent, GREEDY_ROWS) if len(part))])
    return torch.cat([empty, *(_beam(part, tables, beam) for part in torch.split(latent, BEAM_ROWS) if len(part))])


def _greedy(residual: Tensor, tables: Sequence[Table]) -> Tensor:
    """Level by level: argmin over c of |residual - c|^2 / 2 = |c|^2 / 2 - residual . c, up to a constant."""
    codes: list[Tensor] = []
    for level, table in enumerate(tables):
        if level:
            residual = residual - tables[level - 1].codewords[codes[-1]]
        scores = torch.addmm(table.half_norms, residual, table.codewords.T, alpha=-1)
        codes.append(scores.min(dim=1).indices)  # `min` is twice as fast as `argmin`
    return torch.stack(codes, dim=1)


def _beam(latent: Tensor, tables: Sequence[Table], beam: int) -> Tensor:
    """The same objective for whole sequences: sum_l (|c_l|^2 / 2 - latent . c_l) + sum_{j<l} c_j . c_l."""
    rows = len(latent)
    totals, codes = latent.new_zeros(rows, 1), latent.new_zeros(rows, 1, 0, dtype=torch.int64)  # (R, B), (R, B, l)
    for level, table in enumerate(tables):
        alone = torch.addmm(table.half_norms, latent, table.codewords.T, alpha=-1)
        size, last = alone.shape[1], level + 1 == len(tables)
        candidates = (alone[:, None] + totals[:, :, None]).view(-1, size)
        for crossing, before in zip(table.crossings, codes.unbind(dim=2), strict=True):
            candidates += crossing.index_select(0, before.reshape(-1))
        totals, places = least(candidates.view(rows, -1), 1 if last else beam)
        parents = (places // size)[:, :, None].expand(-1, -1, level)
        codes = torch.cat([codes.gather(1, parents), (places % size)[:, :, None]], dim=2)
    return codes[:, 0]


def least(values: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The `number` least of each row of (R, N), or all N, and their places (R, number), in no order; of one the first place."""
    if number == 1:
        found = values.min(dim=1, keepdim=True)
        return found.values, found.indices
    return torch.topk(values, min(number, values.shape[1]), dim=1, largest=False, sorted=False)  # type: ignore[return-value]
