"""One codebook: its k-means start, its nearest code, its moving average and the restart of its dead codes.

A code is open when it has a member in the start's sample; a closed code is never given out. So K larger than the
number of distinct vectors works: the spare codes stay closed and count as dead. N vectors, K codes, D dimensions.
"""

import torch
from torch import Tensor

CHUNK = 4096  # rows per distance product
SAME = 1e-8  # squared distance per dimension below which two vectors are one (data has mean squared 1)
START_PER_CODE = 20  # k-means++ picks from at most this many vectors per code


def scores(x: Tensor, codewords: Tensor, is_open: Tensor) -> Tensor:
    """(N, K): half the squared distance less half |x|^2; +inf at closed codes."""
    half_norms = codewords.square().sum(dim=1).mul_(0.5).masked_fill_(~is_open, torch.inf)
    return torch.addmm(half_norms, x, codewords.T, alpha=-1)


def nearest(x: Tensor, codewords: Tensor, is_open: Tensor) -> Tensor:
    """(N,) codes, the lowest on ties; in chunks, so that N isn't bounded by N x K memory."""
    return torch.cat([scores(part, codewords, is_open).argmin(dim=1) for part in torch.split(x, CHUNK)])


def kmeans(x: Tensor, size: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Codewords (K, D), open (K,) and members (K,) after k-means++ and Lloyd's steps on `x` (N, D); N may be 0."""
    codewords, is_open = kmeans_plus_plus(x, size, generator)
    members = torch.zeros(size)
    for step in range(iterations if len(x) else 0):
        codes = nearest(x, codewords, is_open)
        sums, members = totals(x, codes, size)
        occupied = members > 0
        codewords = torch.where(occupied[:, None], sums / members.clamp_min(1)[:, None], 0.0)
        is_open = occupied
        if step + 1 < iterations:
            is_open = _fill_empty(x, codes, codewords, is_open)
    return codewords, is_open, members


def kmeans_plus_plus(x: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codewords (K, D) drawn from `x` by squared distance; the rest stays closed once every vector is taken."""
    codewords, is_open = torch.zeros(size, x.shape[1]), torch.zeros(size, dtype=torch.bool)
    if not len(x):
        return codewords, is_open
    order = torch.randperm(len(x), generator=generator)
    pool = x[order[: START_PER_CODE * size]]
    distance = torch.full((len(pool),), torch.inf)
    chosen = 0
    for code in range(size):
        codewords[code], is_open[code] = pool[chosen], True
        distance = torch.minimum(distance, (pool - pool[chosen]).square().sum(dim=1))
        weights = torch.where(distance > SAME * x.shape[1], distance, 0.0)
        if not weights.any():
            break
        chosen = int(torch.multinomial(weights, 1, generator=generator))
    return codewords, is_open


def totals(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sums (K, D) and numbers (K,) of the vectors of each code."""
    sums = torch.zeros(size, x.shape[1]).index_add_(0, codes, x)
    return sums, torch.bincount(codes, minlength=size).float()


def _fill_empty(x: Tensor, codes: Tensor, codewords: Tensor, is_open: Tensor) -> Tensor:
    """Moves empty codes, in place, onto the vectors farthest from their codeword; returns what is open now."""
    empty = torch.nonzero(~is_open).flatten()
    distance = (x - codewords[codes]).square().sum(dim=1)
    farthest = distance.topk(min(len(empty), len(x)))
    useful = farthest.values > SAME * x.shape[1]
    taken = empty[: len(useful)][useful]
    codewords[taken] = x[farthest.indices[useful]]
    filled = is_open.clone()
    filled[taken] = True
    return filled


class MovingCodebook:
    """A codebook that follows its members: exponential averages of their sums and numbers (1711.00937, appendix A)."""

    def __init__(self, codewords: Tensor, is_open: Tensor, members: Tensor, decay: float) -> None:
        """`codewords` (K, D) is updated in place; `members` (K,) of the start give each code its first weight."""
        self._codewords, self._open, self._decay = codewords, is_open, decay
        self._share = members / members.sum().clamp_min(1)
        self._mass: Tensor | None = None  # (K,), vectors per step
        self._sums = torch.zeros_like(codewords)

    def update(self, x: Tensor, codes: Tensor) -> None:
        """Moves the codewords towards the vectors `x` (N, D) that were given `codes` (N,)."""
        if not len(x):
            return
        if self._mass is None:
            self._mass = self._share * len(x)
            self._sums = self._codewords * self._mass[:, None]
        sums, members = totals(x, codes, len(self._codewords))
        self._mass = torch.lerp(members, self._mass, self._decay)
        self._sums = torch.lerp(sums, self._sums, self._decay)
        alive = self._open & (self._mass > 1e-6)
        self._codewords[alive] = self._sums[alive] / self._mass[alive][:, None]

    def restart(self, dead: Tensor, x: Tensor, generator: torch.Generator) -> int:
        """Moves the open codes among `dead` (K,) onto random rows of `x` (N, D), with mean mass; returns how many."""
        if self._mass is None or not len(x):
            return 0
        moved = torch.nonzero(self._open & dead).flatten()
        rows = x[torch.randint(len(x), (len(moved),), generator=generator)]
        mean = self._mass.sum() / self._open.sum().clamp_min(1)
        self._codewords[moved] = rows
        self._mass[moved] = mean
        self._sums[moved] = rows * mean
        return len(moved)
