"""Trains a tokenizer from a stream of feature batches that is opened once for the start and once per epoch.

First pass: moments and reservoirs. Start: projections from them, codebooks by k-means and joint least squares. Epochs:
networks by gradient, codebooks as configured; held-out users decide which round's and epoch's weights are kept, the
start's included. Memory doesn't grow with the users. Same layout, configuration, data in the same order, number of ranks
and machine: same fingerprint. Where stage 1 is a Q-Former, `train_qformer` comes before all that, with passes of its own.

In several ranks each streams its own rows. They agree on sample, start, steps, errors and weights
(docs/decisions/0008-training-in-several-processes.md); the first alone reports and keeps the run file.

B users, S sources, D code dimension.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from u2qt_model.batch import FeatureBatch
from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.errors import TrainingError
from u2qt_model.evaluation import block_reports, shared_reports, source_reports, total_error
from u2qt_model.first_pass import CHUNK_USERS, FirstPass, first_pass, held_out_rows
from u2qt_model.joint import refine_jointly
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.model import TokenizerModel
from u2qt_model.progress import Meter, Progress
from u2qt_model.qformer import QFormer
from u2qt_model.qformer_embedder import QFormerEmbedder
from u2qt_model.ranks import ALONE, Ranks
from u2qt_model.refine import Refiner
from u2qt_model.refiners import Refiners
from u2qt_model.require import require
from u2qt_model.residual_quantizer import ResidualQuantizer
from u2qt_model.stage_one import resolved, slice_embedder
from u2qt_model.threads import fixed_threads
from u2qt_model.tokenizer import Tokenizer
from u2qt_model.train_qformer import QFormerState, train_qformer
from u2qt_model.training_state import RunFile, found_state

QUANTIZERS = ("quantizer", "profile_quantizer")  # of a TokenizerModel
OpenStream = Callable[[], Iterator[FeatureBatch]]


def train(
    layout: FeatureLayout,
    config: TokenizerConfig,
    open_stream: OpenStream,
    progress: Callable[[Progress], None] = lambda progress: None,
    run_file: RunFile | None = None,
    ranks: Ranks = ALONE,
) -> Tokenizer:
    """A trained tokenizer with its metrics. With `run_file` a killed run goes on after its last finished epoch.

    Every rank gets the same tokenizer, the metrics' seconds and `progress` are the first one's; `open_stream` opens a rank's own
    rows. A source without a slice is left untrained (`Tokenizer.untrained_sources`). Raises TrainingError for streams without any
    slice, or without user ids while `held_out_share` > 0, for an epoch that diverges, and for ranks whose weights differ.
    """
    with fixed_threads(config.training.threads):
        return _Training(layout, resolved(config), open_stream, progress if ranks.is_first else lambda progress: None, run_file, ranks).run()


@dataclass(kw_only=True, slots=True)
class _Run:
    """What a run is after its start, and after each epoch."""

    training: list[Tensor]  # S x (N, D), the reservoirs, projected
    measured: list[Tensor]  # S x (N, D), held out where there are any
    best: dict[str, Tensor]  # the quantizer's weights of the lowest held-out error
    by_round: list[float]
    by_epoch: list[float]
    users: int
    slices: list[int]  # per source
    held_out_slices: list[int]
    share: float  # of the users, held out
    learnt: dict[str, Any]  # what stage 1 says of its training


class _Training:
    """One run."""

    def __init__(
        self,
        layout: FeatureLayout,
        config: TokenizerConfig,
        open_stream: OpenStream,
        progress: Callable[[Progress], None],
        run_file: RunFile | None,
        ranks: Ranks,
    ) -> None:
        users = config.training.batch_users
        require(ranks.part(users) <= CHUNK_USERS, "training.batch_users", users, f"at most {CHUNK_USERS} for each process")
        self._layout, self._config, self._open_stream, self._progress = layout, config, open_stream, progress
        self._run_file, self._ranks = run_file, ranks
        self._embedder = slice_embedder(layout, config)
        self._model = TokenizerModel(layout, config, self._embedder)
        self._share = config.training.held_out_share
        self._seconds: dict[str, float] = {}

    def run(self) -> Tokenizer:
        run, refined = self._resumed() or (self._begun(), {})
        refiners = self._refiners(run)
        if refiners:
            if refined:
                refiners.load(refined)
            else:
                self._keep(run, refiners)
            self._timed("epochs", lambda: self._epochs(refiners, run))
            refiners.close()
            self._model.load_state_dict(self._model.state_dict() | run.best)
        return Tokenizer(self._layout, self._config, self._model, self._embedder, self._metrics(run))

    def _begun(self) -> _Run:
        """Everything before the epochs."""
        learnt: dict[str, Any] = {}
        if isinstance(self._embedder, QFormerEmbedder):
            network = self._embedder.network
            learnt["qformer"] = self._timed("qformer", lambda: self._train_qformer(network))
        sample = self._timed("first_pass", self._first_pass)
        self._timed("projection", lambda: self._fit_projections(sample))
        training = self._projected([source.training.rows() for source in sample.sources])
        held_out = self._projected([source.held_out.rows() for source in sample.sources])
        self._ranks.share([*training, *held_out])
        measured = [unseen if len(unseen) else seen for unseen, seen in zip(held_out, training, strict=True)]
        generator = torch.Generator().manual_seed(self._config.training.seed)
        if self._ranks.is_first:
            self._timed("start", lambda: self._start(training, generator))
        self._ranks.share(self._weights().values())
        by_round = [total_error(self._model.quantizers, measured, self._ranks)]
        if any(part.quantizer.trainable for part in self._model.quantizers) and self._config.quantizer.joint_rounds:
            by_round = self._timed("joint_rounds", lambda: self._joint_rounds(training, measured))
        run = _Run(
            training=training,
            measured=measured,
            best=copy.deepcopy(self._weights()),
            by_round=by_round,
            by_epoch=[min(by_round)],
            users=sample.users,
            slices=[source.moments.count + source.held_out_slices for source in sample.sources],
            held_out_slices=[source.held_out_slices for source in sample.sources],
            share=self._share,
            learnt=learnt,
        )
        self._progress(Progress(phase="start", epoch=0, step=0, users=run.users, users_per_second=0.0, error=run.by_epoch[0]))
        return run

    def _start(self, training: list[Tensor], generator: torch.Generator) -> None:
        for part in self._model.quantizers:
            start_codebooks(part.quantizer.codebooks, part.of(training), generator)

    def _joint_rounds(self, training: list[Tensor], measured: list[Tensor]) -> list[float]:
        """One quantizer after the other, the error that of all sources."""
        quantizers, ranks = self._model.quantizers, self._ranks
        rounds = [refine_jointly(part.quantizer.codebooks, part.of(training), lambda: total_error(quantizers, measured, ranks), ranks)
                  for part in quantizers]  # fmt: skip
        return [error for found in rounds for error in found]

    def _refiners(self, run: _Run) -> Refiners:
        return Refiners([(part, Refiner(part.quantizer, part.of(run.training), self._config, self._ranks)) for part in self._model.quantizers
                         if isinstance(part.quantizer, ResidualQuantizer)])  # fmt: skip

    def _weights(self) -> dict[str, Tensor]:
        """All quantizers' weights, by their names in the model; not copied."""
        return {name: tensor for name, tensor in self._model.state_dict().items() if name.partition(".")[0] in QUANTIZERS}

    def _resumed(self) -> tuple[_Run, dict[str, Tensor]] | None:
        """The run of the file, and its refiner's state."""
        found = found_state(self._run_file, self._ranks)
        if found is None:
            return None
        tensors, facts = found
        self._model.load_state_dict(_under("model.", tensors))
        sources = range(len(self._layout.sources))
        sides = ([tensors[f"{side}.{source}"] for source in sources] for side in ("training", "measured"))
        run = _Run(training=next(sides), measured=next(sides), best=_under("best.", tensors), **facts)
        self._share = run.share
        return run, _under("refiner.", tensors)

    def _keep(self, run: _Run, refiner: Refiners) -> None:
        """After every rank has the same: only the first one writes."""
        self._ranks.require_equal(self._model.state_dict(), f"after epoch {len(run.by_epoch) - 1}")
        if self._run_file is None or not self._ranks.is_first:
            return
        parts = {"model": self._model.state_dict(), "best": run.best, "refiner": refiner.state()}
        tensors = {f"{part}.{name}": tensor for part, inside in parts.items() for name, tensor in inside.items()}
        tensors |= {f"training.{source}": x for source, x in enumerate(run.training)} | {f"measured.{source}": x for source, x in enumerate(run.measured)}
        facts = {name: getattr(run, name) for name in ("by_round", "by_epoch", "users", "slices", "held_out_slices", "share", "learnt")}
        self._run_file.write(tensors, facts)

    def _train_qformer(self, network: QFormer) -> dict[str, Any]:
        """Frozen afterwards: what follows reads its embeddings only."""

        def report(state: QFormerState) -> None:
            self._progress(Progress(phase="qformer", **dataclasses.asdict(state)))

        return train_qformer(network, self._layout, self._config, self._open_stream, report, self._ranks)

    def _first_pass(self) -> FirstPass:
        widths = [self._embedder.width(source) for source in range(len(self._layout.sources))]
        sample = self._read(widths)
        stranded = [source for source in sample.sources if source.held_out_slices and not source.moments.count]
        if stranded:  # so few users that all of a source's are held out: train on everyone instead
            self._share = 0.0
            sample = self._read(widths)
        if not any(source.moments.count for source in sample.sources):
            raise TrainingError(f"training stream: found {sample.users} user-days and no slice in any source, expected at least one")
        return sample

    def _read(self, widths: list[int]) -> FirstPass:
        meter = Meter(self._progress, "first_pass", 0)
        kinds = [source.kind for source in self._layout.sources]
        return first_pass(self._open_stream(), self._embedder, widths, kinds, self._config, self._share, meter.users_read, self._ranks)

    def _fit_projections(self, sample: FirstPass) -> None:
        for index, source in enumerate(sample.sources):
            mean, variance = torch.from_numpy(source.moments.mean()), torch.from_numpy(source.moments.variance())
            if self._ranks.is_first:
                self._model.projection(index).fit(mean, variance, torch.from_numpy(source.training.rows()))
            self._ranks.share(self._model.projection(index).state_dict().values())
            self._model.seen[index] = source.moments.count

    @torch.no_grad()
    def _projected(self, embeddings: list[Any]) -> list[Tensor]:
        return [self._model.project(torch.from_numpy(rows), source) for source, rows in enumerate(embeddings)]

    def _epochs(self, refiner: Refiners, run: _Run) -> None:
        """Appends each epoch's held-out error to `run.by_epoch`, and keeps the best weights in it."""
        for epoch in range(len(run.by_epoch), self._config.training.epochs + 1):
            refiner.start_epoch(epoch)
            self._epoch(refiner, epoch)
            refiner.finish_epoch()
            error = total_error(self._model.quantizers, run.measured, self._ranks)
            if not math.isfinite(error):
                raise TrainingError(f"epoch {epoch}: found error {error}, expected a finite one; lower training.learning_rate or quantizer.commitment")
            if error < min(run.by_epoch):
                run.best = copy.deepcopy(self._weights())
            run.by_epoch.append(error)
            self._keep(run, refiner)

    def _epoch(self, refiner: Refiners, epoch: int) -> None:
        meter = Meter(self._progress, "epoch", epoch)
        for slices in self._ranks.in_step(self._epoch_steps(refiner, epoch, meter)):
            meter.step_done(*refiner.step(slices or []))

    def _epoch_steps(self, refiner: Refiners, epoch: int, meter: Meter) -> Iterator[list[Tensor]]:
        """The slices of each of this rank's steps; a batch is reported once its last step is done."""
        rng = self._ranks.rng(self._config.training.seed, epoch)
        for batch in self._open_stream():
            rows = np.flatnonzero(~held_out_rows(batch, self._share, self._config.training.seed))
            rows = rng.permutation(rows)
            for start in range(0, len(rows), CHUNK_USERS):
                yield from self._steps(batch, rows[start : start + CHUNK_USERS])
            meter.users_read(meter.users + batch.num_users, refiner.usage())

    def _steps(self, batch: FeatureBatch, users: Any) -> Iterator[list[Tensor]]:
        """Projected slices (N_s, D) per source, this rank's part of `batch_users` of `users` (row numbers) at a time."""
        size = self._ranks.part(self._config.training.batch_users)
        edges = np.arange(0, len(users) + size, size)
        per_source, cuts = [], []
        for source, name in enumerate(self._layout.source_names):
            places = np.flatnonzero(batch.slices[name].present[users])
            embeddings = self._embedder.embed(batch, source, users[places])
            per_source.append(self._projected_one(embeddings, source))
            cuts.append(np.searchsorted(places, edges))
        for step in range(len(edges) - 1):
            yield [x[cut[step] : cut[step + 1]] for x, cut in zip(per_source, cuts, strict=True)]

    @torch.no_grad()
    def _projected_one(self, embeddings: Any, source: int) -> Tensor:
        return self._model.project(torch.from_numpy(embeddings), source)

    def _metrics(self, run: _Run) -> dict[str, Any]:
        names, quantizers = self._layout.source_names, self._model.quantizers
        reports, blocks = source_reports(quantizers, run.training, run.measured), block_reports(quantizers, run.training, names)
        sources = {
            name: {
                "slices": run.slices[index],
                "held_out_slices": run.held_out_slices[index],  # 0: the errors are those of the training sample
                "kept_variance": float(self._model.projection(index).kept_variance),
                **reports[index],
            }
            for index, name in enumerate(names)
        }
        return {
            "users": run.users,
            "held_out_error": min(run.by_epoch),
            "held_out_error_by_joint_round": run.by_round,  # 0 is the start
            "held_out_error_by_epoch": run.by_epoch,  # 0 is before the epochs
            "kept_epoch": run.by_epoch.index(min(run.by_epoch)),
            "sources": sources,
            "codebooks": blocks,
            "shared": shared_reports(quantizers, blocks, run.measured, names),
            "seconds": self._seconds,
            **run.learnt,
        }

    def _timed(self, phase: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self._seconds[phase] = round(time.perf_counter() - start, 3)
        return result


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
