"""What one pass over the training stream keeps, flat in users: moments, and reservoirs of fixed size.

N rows, E width.
"""

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from u2qt_model.profile_features import splitmix64
from u2qt_model.ranks import Ranks

Floats = NDArray[np.float32]


class Reservoir:
    """A uniform sample of at most `size` of all rows offered; the same rows in the same order give the same one."""

    def __init__(self, size: int, width: int, rng: np.random.Generator) -> None:
        self._size, self._width, self._rng = size, width, rng
        self._rows = np.empty((0, width), np.float32)
        self._priorities = np.empty(0)

    def offer(self, rows: Floats) -> None:
        """Considers rows (N, E)."""
        priorities = self._rng.random(len(rows))
        room = self._size - len(self._rows)
        if room > 0:
            self._rows = np.concatenate([self._rows, rows[:room]])
            self._priorities = np.concatenate([self._priorities, priorities[:room]])
            rows, priorities = rows[room:], priorities[room:]
        self._replace(rows, priorities)

    def _replace(self, rows: Floats, priorities: NDArray[np.float64]) -> None:
        """Keeps the `size` highest priorities; a loser's place goes to a newcomer, so that rows aren't copied."""
        if not len(rows):
            return
        both = np.concatenate([self._priorities, priorities])
        kept = np.zeros(len(both), bool)
        kept[np.argpartition(both, len(rows))[len(rows) :]] = True
        places, newcomers = np.flatnonzero(~kept[: self._size]), np.flatnonzero(kept[self._size :])
        self._rows[places] = rows[newcomers]
        self._priorities[places] = priorities[newcomers]

    def rows(self) -> Floats:
        """The sample, at most (size, E)."""
        return self._rows

    def merge(self, ranks: Ranks) -> None:
        """Becomes, on every rank, a uniform sample of all ranks' rows: those of the highest priorities travel, no others."""
        if ranks.count == 1:
            return
        everyone = ranks.gather(torch.from_numpy(self._priorities)).numpy()
        least = np.sort(everyone)[-self._size] if len(everyone) > self._size else 0.0
        kept = self._priorities >= least
        self._rows = ranks.gather(torch.from_numpy(self._rows[kept])).numpy()
        self._priorities = ranks.gather(torch.from_numpy(self._priorities[kept])).numpy()


class Moments:
    """Mean and variance of all rows, in float64."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self._sum, self._squares = np.zeros(width), np.zeros(width)

    def add(self, rows: Floats) -> None:
        """Counts rows (N, E) in."""
        wide = rows.astype(np.float64)
        self.count += len(rows)
        self._sum += wide.sum(axis=0)
        self._squares += np.square(wide).sum(axis=0)

    def merge(self, ranks: Ranks) -> None:
        """Becomes, on every rank, that of all ranks' rows."""
        count = torch.tensor([self.count])
        ranks.add([count])
        ranks.add([torch.from_numpy(self._sum), torch.from_numpy(self._squares)])
        self.count = int(count)

    def mean(self) -> NDArray[np.float64]:
        """(E,), zeros without rows."""
        return np.asarray(self._sum / max(self.count, 1))

    def variance(self) -> NDArray[np.float64]:
        """(E,), never negative; what rounding alone may have left of a constant is 0."""
        variance = self._squares / max(self.count, 1) - np.square(self.mean())
        return np.where(variance > 1e-12 * self._squares / max(self.count, 1), variance, 0.0)


def held_out_users(user_ids: NDArray[Any], share: float, seed: int) -> NDArray[np.bool_]:
    """(N,) which users are held out: a pure function of id and seed, so all of a user's days fall on one side."""
    checks = np.fromiter(map(zlib.crc32, user_ids), dtype=np.uint64, count=len(user_ids))
    mixed = splitmix64(checks + (np.uint64(seed) << np.uint64(32)))
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share)
