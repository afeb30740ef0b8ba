"""One codebook: its nearest code, its first codewords, its moving average and the restart of its dead codes.

A code is open when it has a member in the start's sample; a closed code is never given out. So K larger than the
number of distinct vectors works: the spare codes stay closed and count as dead. N vectors, K codes, D dimensions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

CHUNK = 4096  # rows per distance product
SAME = 1e-8  # squared distance per dimension below which two vectors are one (data has mean squared 1)
START_PER_CODE = 20  # the first codewords are picked from at most this many vectors per code


def scores(x: Tensor, codewords: Tensor, is_open: Tensor) -> Tensor:
    """(N, K): half the squared distance less half |x|^2; +inf at closed codes."""
    half_norms = codewords.square().sum(dim=1).mul_(0.5).masked_fill_(~is_open, torch.inf)
    return torch.addmm(half_norms, x, codewords.T, alpha=-1)


def nearest(x: Tensor, codewords: Tensor, is_open: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) codes, the lowest on ties, and (N,) squared distances; in chunks, so that N isn't bounded by N x K memory."""
    codes, distances = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
    for part in torch.split(x, CHUNK):
        least = scores(part, codewords, is_open).min(dim=1)
        codes.append(least.indices)
        distances.append((2 * least.values + part.square().sum(dim=1)).clamp_min(0))
    return torch.cat(codes), torch.cat(distances)


def kmeans(x: Tensor, size: int, iterations: int, generator: torch.Generator, *, spread: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Codewords (K, D), open (K,) and members (K,) after Lloyd's steps on `x` (N, D); N may be 0. For `spread` see `first_codewords`."""
    codewords, is_open = first_codewords(x, size, generator, spread=spread)
    members = torch.zeros(size)
    for step in range(iterations if len(x) else 0):
        codes, distances = nearest(x, codewords, is_open)
        sums, members = totals(x, codes, size)
        codewords, is_open = sums / members.clamp_min(1)[:, None], members > 0
        if step + 1 < iterations:
            fill_empty(codewords, is_open, x, distances)
    return codewords, is_open, members


def first_codewords(x: Tensor, size: int, generator: torch.Generator, *, spread: bool) -> tuple[Tensor, Tensor]:
    """Codewords (K, D), open (K,): distinct rows of `x` (N, D); the rest stays closed once every row is taken.

    `spread` draws them by their squared distance to those before (k-means++, Arthur and Vassilvitskii 2007); otherwise
    any row is as likely.
    """
    codewords, is_open = torch.zeros(size, x.shape[1]), torch.zeros(size, dtype=torch.bool)
    if not len(x):
        return codewords, is_open
    pool = x[torch.randperm(len(x), generator=generator)[: START_PER_CODE * size]]
    distance = torch.full((len(pool),), torch.inf)
    chosen = 0
    for code in range(size):
        codewords[code], is_open[code] = pool[chosen], True
        distance = torch.minimum(distance, (pool - pool[chosen]).square().sum(dim=1))
        free = distance > SAME * x.shape[1]
        if not free.any():
            break
        weights = torch.where(free, distance, 0.0) if spread else free.float()
        chosen = int(torch.multinomial(weights, 1, generator=generator))
    return codewords, is_open


def fill_empty(codewords: Tensor, is_open: Tensor, x: Tensor, distances: Tensor) -> None:
    """Moves closed codes (K,), in place, onto the vectors `x` (N, D) with the largest squared distances (N,)."""
    empty = torch.nonzero(~is_open).flatten()
    farthest = distances.topk(min(len(empty), len(x)))
    useful = farthest.values > SAME * x.shape[1]
    filled = empty[: len(useful)][useful]
    codewords[filled], is_open[filled] = x[farthest.indices[useful]], True


def totals(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sums (K, D) and numbers (K,) of the vectors of each code."""
    sums = torch.zeros(size, x.shape[1]).index_add_(0, codes, x)
    return sums, torch.bincount(codes, minlength=size).float()


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

    def state(self) -> dict[str, Tensor]:
        """What a later `load` goes on from."""
        return {"share": self._share, "sums": self._sums, **({} if self._mass is None else {"mass": self._mass})}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._share, self._sums, self._mass = state["share"].clone(), state["sums"].clone(), None
        if "mass" in state:
            self._mass = state["mass"].clone()

    def restarted(self, moved: Tensor) -> None:
        """Gives the codes `moved` (M,), whose codewords were set anew, the mean mass."""
        if self._mass is None:
            return
        self._mass[moved] = self._mass.sum() / self._open.sum().clamp_min(1)
        self._sums[moved] = self._codewords[moved] * self._mass[moved][:, None]
