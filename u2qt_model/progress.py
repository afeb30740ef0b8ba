"""Where a training stands, for whoever watches it."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where training stands; given to the callback after every batch and after the start. In several processes: the first one's."""

    phase: str  # "qformer" (where stage 1 is one) | "first_pass" | "start" | "epoch"
    epoch: int  # 0 until the start is done, then from 1; in "qformer" its own, 0 is the pass for moments
    step: int  # batches in this phase, or gradient steps in this epoch
    users: int  # user-days read in this phase
    users_per_second: float
    error: float | None = None  # relative squared error: of the epoch's slices so far, after the start held out
    usage: float | None = None  # share of all codes given out in this epoch
    loss: float | None = None  # the Q-Former's, of the epoch's slices so far


class Meter:
    """Speed and running error of one phase, for the callback."""

    def __init__(self, progress: Callable[[Progress], None], phase: str, epoch: int) -> None:
        self._progress, self._phase, self._epoch = progress, phase, epoch
        self._start, self._steps, self._error, self._length = time.perf_counter(), 0, 0.0, 0.0
        self.users = 0

    def step_done(self, error: float, length: float) -> None:
        """Summed squared error and squared length of a step."""
        self._steps, self._error, self._length = self._steps + 1, self._error + error, self._length + length

    def users_read(self, users: int, usage: float | None = None) -> None:
        """`users` since the phase began; reports."""
        self.users = users
        if usage is None:
            self._steps += 1
        speed = users / max(time.perf_counter() - self._start, 1e-9)
        error = self._error / self._length if self._length else None
        self._progress(
            Progress(
                phase=self._phase, epoch=self._epoch, step=self._steps, users=users,
                users_per_second=speed, error=error, usage=usage,
            )
        )  # fmt: skip
