"""The six-source vectors to compare quantizers on, and one way to fit ours on them, or on real slices: the same calls as in training."""

import copy
import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from u2qt_model.config import QuantizerConfig, TokenizerConfig, TrainingConfig
from u2qt_model.evaluation import assign, block_reports, total_error
from u2qt_model.joint import refine_jointly
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.refine import Refiner
from u2qt_model.residual_quantizer import ResidualQuantizer
from u2qt_model.source_quantizers import alone

BENCH = Path(__file__).resolve().parents[2] / "shared" / "bench"
VALIDATION_USERS = 500  # of the training users; they decide which round and epoch is kept, never the held-out ones
STEP_USERS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """One quantizer on one seed."""

    error: float  # relative squared error of held-out users
    least_usage: float  # of the block used least, by the training users
    seconds: float  # of training


def bench(name: str) -> ModuleType:
    """A module of the folder of shared vectors and baselines."""
    path = BENCH / f"{name}.py"
    if not path.exists():
        raise SystemExit(f"{path}: not found; this benchmark needs the shared vectors beside the repository")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vectors(seed: int, users: int = 10_000) -> tuple[list[Tensor], list[Tensor]]:
    """Training and held-out slices, per source (users, 128)."""
    train, held_out, _ = bench("six_source_vectors").make(seed, users)
    return tuple([torch.from_numpy(x[:, s].copy()) for s in range(x.shape[1])] for x in (train, held_out))  # type: ignore[return-value]


def error(quantizer: ResidualQuantizer, slices: list[Tensor]) -> float:
    """Squared error relative to the distance from the mean of all slices, as the baselines report it."""
    with torch.no_grad():
        left = sum(
            float((x - quantizer.reconstruct(codes, s)).square().sum()) for s, (x, codes) in enumerate(zip(slices, assign(quantizer, slices), strict=True))
        )
    together = torch.cat(slices)
    return left / float((together - together.mean(dim=0)).square().sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Slices:
    """What one quantizer is fitted on and judged by; per source (N, D), N differs."""

    fitting: list[Tensor]
    users: list[Tensor]  # (N,) the number of each fitting slice's user
    validation: list[Tensor]  # decides which round and epoch is kept
    held_out: list[Tensor]


def of_six_sources(train: list[Tensor], held_out: list[Tensor]) -> Slices:
    """Every user has every source."""
    fitting, validation = [x[VALIDATION_USERS:] for x in train], [x[:VALIDATION_USERS] for x in train]
    return Slices(fitting=fitting, users=[torch.arange(len(x)) for x in fitting], validation=validation, held_out=held_out)


def fitted(slices: Slices, config: QuantizerConfig, *, seed: int, hidden: int = 0, epochs: int = 0) -> tuple[ResidualQuantizer, float]:
    """Start, joint rounds and epochs as configured; the quantizer and its seconds."""
    clock, fitting = time.perf_counter(), slices.fitting
    quantizer = ResidualQuantizer(len(fitting), fitting[0].shape[1], hidden, config, torch.Generator().manual_seed(seed))
    start_codebooks(quantizer.codebooks, fitting, torch.Generator().manual_seed(seed))
    if config.joint_rounds:
        refine_jointly(quantizer.codebooks, fitting, lambda: total_error(alone(quantizer), slices.validation))
    if epochs:
        _epochs(quantizer, slices, config, seed, epochs)
    return quantizer, time.perf_counter() - clock


def _epochs(quantizer: ResidualQuantizer, slices: Slices, config: QuantizerConfig, seed: int, epochs: int) -> None:
    whole = replace(TokenizerConfig(quantizer=config), training=TrainingConfig(seed=seed))
    refiner, generator = Refiner(quantizer, slices.fitting, whole), torch.Generator().manual_seed(seed)
    least, best = total_error(alone(quantizer), slices.validation), copy.deepcopy(quantizer.state_dict())
    for epoch in range(1, epochs + 1):
        refiner.start_epoch(epoch)
        for step in _steps(slices, generator):
            refiner.step(step)
        refiner.finish_epoch()
        if (now := total_error(alone(quantizer), slices.validation)) < least:
            least, best = now, copy.deepcopy(quantizer.state_dict())
    refiner.close()
    quantizer.load_state_dict(best)


def _steps(slices: Slices, generator: torch.Generator) -> Iterator[list[Tensor]]:
    """The slices of STEP_USERS users at a time, in an order drawn anew."""
    count = 1 + max(int(users.max()) for users in slices.users if len(users))
    place = torch.empty(count, dtype=torch.int64)
    place[torch.randperm(count, generator=generator)] = torch.arange(count)
    orders = [place[users].argsort() for users in slices.users]
    edges = torch.arange(0, count + STEP_USERS, STEP_USERS)
    cuts = [torch.searchsorted(place[users][order], edges).tolist() for users, order in zip(slices.users, orders, strict=True)]
    for step in range(len(edges) - 1):
        yield [x[order[cut[step] : cut[step + 1]]] for x, order, cut in zip(slices.fitting, orders, cuts, strict=True)]


def measured(slices: Slices, config: QuantizerConfig, *, seed: int, hidden: int = 0, epochs: int = 0) -> Fit:
    """A fit and what it is worth on held-out users."""
    quantizer, seconds = fitted(slices, config, seed=seed, hidden=hidden, epochs=epochs)
    sources = len(slices.fitting)
    seen = [torch.cat(both) for both in zip(slices.validation, slices.fitting, strict=True)]
    usage = min(report["usage"] for report in block_reports(alone(quantizer), seen, tuple(f"s{n}" for n in range(sources))))
    return Fit(error=error(quantizer, slices.held_out), least_usage=usage, seconds=seconds)
