"""Trains a Q-Former from the stream: a pass for the values' moments, then epochs, each followed by a held-out pass.

Held-out users are never learnt from; the weights of the lowest held-out loss are left in the network, the start's included.
Memory doesn't grow with the users. Same layout, configuration, data in the same order and machine: same weights.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from u2qt_model.batch import FeatureBatch
from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.errors import TrainingError
from u2qt_model.event_embedding import compressed
from u2qt_model.event_tensors import SourceEvents, joined, source_events
from u2qt_model.first_pass import held_out_rows
from u2qt_model.qformer import QFormer
from u2qt_model.qformer_heads import QFormerHeads, QFormerLoss
from u2qt_model.ranks import ALONE, Ranks
from u2qt_model.samples import Moments
from u2qt_model.threads import fixed_threads

OpenStream = Callable[[], Iterator[FeatureBatch]]
LONGEST_GRADIENT = 1.0  # norm to which a step's gradient is cut


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormerState:
    """Where the training stands; given to the callback after every batch, and at the end, of the first pass and of each epoch."""

    epoch: int  # 0 in the first pass, then from 1
    step: int  # gradient steps of this epoch; 0 in the first pass
    users: int  # user-days read in this pass
    users_per_second: float
    loss: float | None  # mean over this epoch's slices so far


@dataclass(kw_only=True, slots=True)
class _Census:
    """What the first pass finds."""

    moments: list[Moments]  # per source, of compressed values of training events
    training_slices: list[int]  # per source
    held_out_slices: list[int]
    steps: int = 0  # of an epoch


def train_qformer(
    network: QFormer,
    layout: FeatureLayout,
    config: TokenizerConfig,
    open_stream: OpenStream,
    report: Callable[[QFormerState], None] = lambda state: None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Trains `network` in place; returns what metrics.json says of it. A stream without a slice changes nothing.

    In several ranks a step's `batch_users` are all ranks' together; a contrast's negatives are those of one rank.
    Raises TrainingError for a loss that isn't finite, and for a stream without user ids while `held_out_share` > 0.
    """
    with fixed_threads(config.training.threads):
        return _QFormerTraining(network, layout, config, open_stream, report, ranks).run()


def share_of_rate(step: int, steps: int, warm_up: float) -> float:
    """Of the highest learning rate, in step `step` (from 0) of `steps`: up in a line over the warm-up, then down to 0."""
    rising = math.ceil(steps * warm_up)
    if step < rising:
        return (step + 1) / rising
    return max(steps - step, 0) / max(steps - rising, 1)


class _QFormerTraining:
    """One run."""

    def __init__(
        self,
        network: QFormer,
        layout: FeatureLayout,
        config: TokenizerConfig,
        open_stream: OpenStream,
        report: Callable[[QFormerState], None],
        ranks: Ranks,
    ) -> None:
        self._network, self._layout, self._config, self._open_stream, self._report = network, layout, config, open_stream, report
        self._heads = QFormerHeads(layout, config)
        self._share = config.training.held_out_share
        self._ranks = ranks

    def run(self) -> dict[str, Any]:
        census = self._census()
        if any(held and not seen for held, seen in zip(census.held_out_slices, census.training_slices, strict=True)):
            self._share = 0.0  # so few users that all of a source's are held out: train on everyone instead
            census = self._census()
        for source, moments in enumerate(census.moments):
            self._network.events.of(source).fit(torch.from_numpy(moments.mean()), torch.from_numpy(moments.variance()))
        self._ranks.share([*self._network.state_dict().values(), *self._heads.state_dict().values()])
        unseen = any(census.held_out_slices)
        optimizer = _optimizer(self._network, self._heads, self._config)
        schedule = self._schedule(optimizer, census.steps * self._config.qformer.epochs)
        parts, best = [self._measured(held_out=unseen)], copy.deepcopy(self._network.state_dict())
        for epoch in range(1, self._config.qformer.epochs + 1):
            self._epoch(epoch, optimizer, schedule)
            parts.append(self._measured(held_out=unseen))
            if not math.isfinite(parts[-1]["total"]):
                raise TrainingError(f"qformer, epoch {epoch}: found loss {parts[-1]['total']}, expected a finite one; lower qformer.learning_rate")
            if parts[-1]["total"] < min(part["total"] for part in parts[:-1]):
                best = copy.deepcopy(self._network.state_dict())
        self._network.load_state_dict(best)
        by_epoch = [part["total"] for part in parts]
        kept = by_epoch.index(min(by_epoch))
        return {"held_out_loss_by_epoch": by_epoch, "kept_epoch": kept, "held_out_loss": parts[kept]}

    def _census(self) -> _Census:
        sources = self._layout.sources
        counts = [0] * len(sources)
        census = _Census(moments=[Moments(source.num_values) for source in sources], training_slices=[*counts], held_out_slices=[*counts])

        def training_rows(batch: FeatureBatch) -> NDArray[np.int64]:
            held_out = held_out_rows(batch, self._share, self._config.training.seed)
            for source, name in enumerate(self._layout.source_names):
                census.training_slices[source] += int((batch.slices[name].present & ~held_out).sum())
                census.held_out_slices[source] += int((batch.slices[name].present & held_out).sum())
            return np.flatnonzero(~held_out)

        for events in self._ranks.in_step(self._steps(training_rows, _Watch(self._report, 0))):
            census.steps += 1
            for source, one in enumerate(events or ()):
                census.moments[source].add(compressed(one.values[one.mask]).numpy())
        self._merge(census)
        return census

    def _merge(self, census: _Census) -> None:
        counts = torch.tensor([census.training_slices, census.held_out_slices])
        self._ranks.add([counts])
        census.training_slices, census.held_out_slices = counts.tolist()
        for moments in census.moments:
            moments.merge(self._ranks)

    def _epoch(self, epoch: int, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR) -> None:
        rng = self._ranks.rng(self._config.training.seed, epoch)
        parameters = [*self._network.parameters(), *self._heads.parameters()]
        watch = _Watch(self._report, epoch)
        steps = self._steps(lambda batch: rng.permutation(self._rows(batch, held_out=False)), watch)
        for events in self._ranks.in_step(steps):
            optimizer.zero_grad()
            slices = self._backward(events, watch) if events else 0
            self._ranks.average_gradients(parameters, slices)
            nn.utils.clip_grad_norm_(parameters, LONGEST_GRADIENT)
            optimizer.step()
            schedule.step()

    def _backward(self, events: tuple[SourceEvents, ...], watch: "_Watch") -> int:
        """Leaves the gradients of one step's loss; its slices."""
        loss: QFormerLoss = self._heads(self._network, events)
        loss.total.backward()  # type: ignore[no-untyped-call]
        watch.step_done(float(loss.total.detach()), loss.slices)
        return loss.slices

    @torch.no_grad()
    def _measured(self, *, held_out: bool) -> dict[str, float]:
        """Mean over slices of each part of the loss, of held-out users, or of the others where nobody is held out."""
        sums, slices = dict.fromkeys(("bags", "values", "contrast", "total"), 0.0), 0
        for events in self._steps(lambda batch: self._rows(batch, held_out=held_out)):
            loss: QFormerLoss = self._heads(self._network, events)
            for part in sums:
                sums[part] += float(getattr(loss, part)) * loss.slices
            slices += loss.slices
        totals = torch.tensor([*sums.values(), slices], dtype=torch.float64)
        self._ranks.add([totals])
        return {part: found / max(int(totals[-1]), 1) for part, found in zip(sums, totals.tolist(), strict=False)}

    def _rows(self, batch: FeatureBatch, *, held_out: bool) -> NDArray[np.int64]:
        return np.flatnonzero(held_out_rows(batch, self._share, self._config.training.seed) == held_out)

    def _steps(self, chosen: Callable[[FeatureBatch], NDArray[np.int64]], watch: "_Watch | None" = None) -> Iterator[tuple[SourceEvents, ...]]:
        """Events of `batch_users` chosen rows at a time, over the borders of batches: a day's row groups may be small."""
        size, waiting = self._ranks.part(self._config.qformer.batch_users), 0
        pending: list[tuple[SourceEvents, ...]] = []
        for batch in self._open_stream():
            rows = chosen(batch)
            while len(rows):
                part, rows = rows[: size - waiting], rows[size - waiting :]
                pending.append(source_events(batch, self._layout, part, len(part)))
                waiting += len(part)
                if waiting == size:
                    yield joined(pending)
                    pending, waiting = [], 0
            if watch is not None:
                watch.batch_done(batch.num_users)
        if pending:
            yield joined(pending)
        if watch is not None:
            watch.batch_done(0)

    def _schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        warm_up = self._config.qformer.warm_up
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, steps, warm_up))


def _optimizer(network: QFormer, heads: QFormerHeads, config: TokenizerConfig) -> torch.optim.Optimizer:
    """AdamW (1711.05101) that decays the matrices of linear layers only."""
    linear = [part.weight for whole in (network, heads) for part in whole.modules() if isinstance(part, nn.Linear)]
    decayed = {id(weight) for weight in linear}
    others = [weight for whole in (network, heads) for weight in whole.parameters() if id(weight) not in decayed]
    groups = [{"params": linear, "weight_decay": config.qformer.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.qformer.learning_rate)


class _Watch:
    """Speed and running loss of one pass, for the callback."""

    def __init__(self, report: Callable[[QFormerState], None], epoch: int) -> None:
        self._report, self._epoch, self._start = report, epoch, time.perf_counter()
        self._step, self._users, self._loss, self._slices = 0, 0, 0.0, 0

    def step_done(self, loss: float, slices: int) -> None:
        self._step, self._loss, self._slices = self._step + 1, self._loss + loss * slices, self._slices + slices

    def batch_done(self, users: int) -> None:
        self._users += users
        speed = self._users / max(time.perf_counter() - self._start, 1e-9)
        loss = self._loss / self._slices if self._slices else None
        self._report(QFormerState(epoch=self._epoch, step=self._step, users=self._users, users_per_second=speed, loss=loss))
