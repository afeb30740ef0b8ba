"""Epochs after the start: gradients for the networks, and what the configuration says for the codebooks.

S sources, L levels, K codes of a block, D dimensions, N_s slices of source s in a step.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from u2qt_model.balanced_codes import balanced_codes
from u2qt_model.blocks import Block
from u2qt_model.codebooks import MovingCodebook, scores, totals
from u2qt_model.config import TokenizerConfig
from u2qt_model.joint import NormalEquations
from u2qt_model.ranks import ALONE, Ranks
from u2qt_model.residual_quantizer import ResidualQuantizer
from u2qt_model.restarts import restart_dead, used_codes


class Refiner:
    """Improves a started quantizer in place, step by step; holds what training needs and a checkpoint doesn't.

    In several ranks a step is that of all ranks' slices together; only what goes on within an epoch differs between ranks.
    """

    def __init__(self, quantizer: ResidualQuantizer, latents: list[Tensor], config: TokenizerConfig, ranks: Ranks = ALONE) -> None:
        """`latents` S x (N, D) of the start give the moving averages their first weights."""
        self._quantizer, self._codebooks, self._config = quantizer, quantizer.codebooks, quantizer.codebooks.config
        self._ranks = ranks
        self._blocks = self._codebooks.blocks()
        self._moving = self._moving_codebooks(latents) if self._config.codebooks == "ema" else []
        weights: list[Tensor] = list(quantizer.parameters())
        if self._config.codebooks == "gradient":
            weights += [self._codebooks.shared.requires_grad_(), self._codebooks.own.requires_grad_()]
        self._weights = weights
        self._optimizer = torch.optim.AdamW(weights, lr=config.training.learning_rate, weight_decay=0.0) if weights else None
        self._active = self._config.num_levels
        self._empty = [latent[:0] for latent in latents]
        self.start_epoch(1)

    def start_epoch(self, epoch: int) -> None:
        """Epochs count from 1. Forgets which codes were given out, and lets the levels join that the warm-up keeps back."""
        levels, waits = self._config.num_levels, self._config.warm_up_epochs + 1
        self._active = math.ceil(levels * min(epoch, waits) / waits)
        self._used = [torch.zeros(block.size, dtype=torch.bool) for block in self._blocks]
        self._equations = NormalEquations(self._codebooks) if self._config.codebooks == "joint" else None
        self._recent = list(self._empty), [torch.zeros(0, self._active, dtype=torch.int64) for _ in self._empty]

    def step(self, slices: list[Tensor]) -> tuple[float, float]:
        """One step on S tensors (N_s, D), any of which may be empty; this rank's summed squared error and summed squared length."""
        present = {source: x for source, x in enumerate(slices) if len(x)}
        latents = {source: self._quantizer.to_latent(x, source) for source, x in present.items()}
        with torch.no_grad():
            codes = {source: self._codes(latent, source) for source, latent in latents.items()}
            error = self._error(present, codes)
        if self._optimizer is not None:
            losses = [self._quantizer.loss(x, latents[source], codes[source], source) for source, x in present.items()]
            self._optimizer.zero_grad()
            members = sum(map(len, present.values()))
            if losses:
                (torch.stack(losses).sum() / members).backward()  # type: ignore[no-untyped-call]
            self._ranks.average_gradients(self._weights, members)
            self._optimizer.step()
        with torch.no_grad():
            self._move_codebooks({source: latent.detach() for source, latent in latents.items()}, codes)
        return error, float(sum(x.square().sum() for x in present.values()))

    def usage(self) -> tuple[int, int]:
        """Codes given out since the epoch began, and codes that there are."""
        used = torch.cat(self._used)
        return int(used.sum()), len(used)

    def finish_epoch(self) -> None:
        """Solves for the codewords where they are joint, and moves the codes that the epoch didn't use."""
        if self._equations is not None:
            self._equations.merge(self._ranks)
            self._equations.solve()
        if self._config.restart_dead:
            self._restart()
        self._ranks.share(self._codebooks.state_dict().values())
        for moving in self._moving:
            self._ranks.share(moving.state().values())

    def _restart(self) -> None:
        """Onto each source's newest slices, of every rank."""
        used = [occurs.int() for occurs in self._used]
        self._ranks.add(used)
        latents, codes = ([self._ranks.gather(part) for part in recent] for recent in self._recent)
        moved = restart_dead(self._codebooks, latents, codes, [ranks > 0 for ranks in used])
        for moving, places in zip(self._moving, moved, strict=False):
            moving.restarted(places)

    def state(self) -> dict[str, Tensor]:
        """What `load` goes on from after an epoch: the optimizer's moments and the moving averages."""
        found = {f"moving.{index}.{name}": tensor for index, moving in enumerate(self._moving) for name, tensor in moving.state().items()}
        if self._optimizer is not None:
            moments = self._optimizer.state_dict()["state"]
            found |= {f"optimizer.{index}.{name}": tensor for index, inside in moments.items() for name, tensor in inside.items()}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for index, moving in enumerate(self._moving):
            moving.load(_under(f"moving.{index}.", state))
        if self._optimizer is not None:
            described = self._optimizer.state_dict()
            numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("optimizer.")})
            described["state"] = {number: _under(f"optimizer.{number}.", state) for number in numbers}
            self._optimizer.load_state_dict(described)

    def close(self) -> None:
        """Training is over: the codebooks need no gradients any more."""
        self._codebooks.shared.requires_grad_(False)
        self._codebooks.own.requires_grad_(False)

    def _moving_codebooks(self, latents: list[Tensor]) -> list[MovingCodebook]:
        members = [torch.zeros(block.size) for block in self._blocks]
        for source, latent in enumerate(latents):
            codes = self._codebooks.encode(latent, source)
            for counts, block in zip(members, self._blocks, strict=True):
                if source in block.sources(self._codebooks.num_sources):
                    counts += torch.bincount(_inside(codes, block.level, block.first, block.size)[1], minlength=block.size)
        return [
            MovingCodebook(*self._codebooks.block(block), counts, self._config.ema_decay)
            for block, counts in zip(self._blocks, members, strict=True)
        ]  # fmt: skip

    def _codes(self, latent: Tensor, source: int) -> Tensor:
        if self._config.balance:
            return self._balanced(latent, source)
        return self._codebooks.encode(latent, source, self._active)

    def _balanced(self, residual: Tensor, source: int) -> Tensor:
        """Greedy over the levels; per level the nearer of the blocks' balanced codes."""
        codes = []
        for level in range(self._active):
            table, is_open = self._codebooks.table(source, level)
            found, split = scores(residual, table, is_open), self._config.shared_size(level)
            parts = [part for part in (found[:, :split], found[:, split:]) if part.shape[1]]
            firsts = [0, split] if len(parts) == 2 else [0]
            offered = torch.stack([balanced_codes(part, self._config.balance) + first for part, first in zip(parts, firsts, strict=True)], dim=1)
            nearer = found.gather(1, offered).argmin(dim=1, keepdim=True)
            codes.append(offered.gather(1, nearer)[:, 0])
            residual = residual - table[codes[-1]]
        return torch.stack(codes, dim=1)

    def _move_codebooks(self, latents: dict[int, Tensor], codes: dict[int, Tensor]) -> None:
        given = [codes.get(source, torch.zeros(0, self._active, dtype=torch.int64)) for source in range(len(self._empty))]
        for source, latent in latents.items():  # a source that the epoch's last step lacks keeps its newest slices
            self._recent[0][source], self._recent[1][source] = latent, codes[source]
        for used, now in zip(self._used, used_codes(self._codebooks, given), strict=True):
            used |= now
        if self._equations is not None:
            for source, latent in latents.items():
                self._equations.add(latent, codes[source], source)
        if self._moving:
            self._move_by_average(latents, codes)

    def _move_by_average(self, latents: dict[int, Tensor], codes: dict[int, Tensor]) -> None:
        residuals = {source: list(self._codebooks.residuals(latents[source], codes[source], source)) for source in latents}
        active = [(moving, block) for moving, block in zip(self._moving, self._blocks, strict=True) if block.level < self._active]
        found = [self._totals(block, residuals, codes) for _, block in active]
        self._ranks.add([tensor for pair in found for tensor in pair])
        for (moving, _), (sums, members) in zip(active, found, strict=True):
            moving.follow(sums, members)

    def _totals(self, block: Block, residuals: dict[int, list[Tensor]], codes: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Sums (K, D) and numbers (K,) of what a block's members leave for it."""
        sources = [source for source in block.sources(self._codebooks.num_sources) if source in residuals]
        inside = [_inside(codes[source], block.level, block.first, block.size) for source in sources]
        rows = [residuals[source][block.level][mask] for source, (mask, _) in zip(sources, inside, strict=True)]
        nothing = torch.zeros(0, self._codebooks.own.shape[-1]), torch.zeros(0, dtype=torch.int64)
        return totals(torch.cat([nothing[0], *rows]), torch.cat([nothing[1], *(members for _, members in inside)]), block.size)

    def _error(self, present: dict[int, Tensor], codes: dict[int, Tensor]) -> float:
        """As the codes give it, before the step changes the weights for the next one."""
        return float(sum((self._quantizer.reconstruct(codes[source], source) - x).square().sum() for source, x in present.items()))


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _inside(codes: Tensor, level: int, first: int, size: int) -> tuple[Tensor, Tensor]:
    """Which of codes (N, L) lie in a block (N,), and those as its own codes (M,)."""
    own = codes[:, level] - first
    mask = (own >= 0) & (own < size)
    return mask, own[mask]
