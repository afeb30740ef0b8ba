"""Epochs after the k-means start: gradients for the networks, moving averages and restarts for the codebooks.

S sources, K codes, D dimensions, N_s slices of source s in a step.
"""

import torch
from torch import Tensor

from u2qt_model.codebooks import MovingCodebook
from u2qt_model.config import TokenizerConfig
from u2qt_model.quantizer import Quantized
from u2qt_model.residual_quantizer import ResidualQuantizer


class Refiner:
    """Improves a started quantizer in place, step by step; holds what training needs and a checkpoint doesn't."""

    def __init__(self, quantizer: ResidualQuantizer, members: list[Tensor], config: TokenizerConfig) -> None:
        """`members` (K,) per block, as `CodebookStack.start` gives them."""
        self._quantizer = quantizer
        self._generator = torch.Generator().manual_seed(config.training.seed + 1)
        self._optimizer = torch.optim.AdamW(quantizer.parameters(), lr=config.training.learning_rate, weight_decay=0.0)
        self._blocks = quantizer.codebooks.blocks()
        self._moving = [
            MovingCodebook(*quantizer.codebooks.table(sources[0], level), counts, config.quantizer.ema_decay)
            for (level, sources), counts in zip(self._blocks, members, strict=True)
        ]
        self._recent: list[Tensor] = [torch.empty(0)] * len(self._blocks)
        self._used = [torch.zeros(config.quantizer.codebook_size, dtype=torch.bool) for _ in self._blocks]

    def step(self, slices: list[Tensor]) -> tuple[float, float]:
        """One step on S tensors (N_s, D), any of which may be empty; summed squared error and summed squared length."""
        present = {source: x for source, x in enumerate(slices) if len(x)}
        if not present:
            return 0.0, 0.0
        losses = {source: self._quantizer.loss(x, source) for source, x in present.items()}
        total = torch.stack([loss for loss, _ in losses.values()]).sum() / sum(map(len, present.values()))
        self._optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        found = {source: quantized for source, (_, quantized) in losses.items()}
        with torch.no_grad():
            self._move_codebooks(found)
            return self._error(present, found)

    def _move_codebooks(self, found: dict[int, Quantized]) -> None:
        for index, (level, sources) in enumerate(self._blocks):
            here = [found[source] for source in sources if source in found]
            if not here:
                continue
            residuals = torch.cat([quantized.residuals[level] for quantized in here])
            codes = torch.cat([quantized.codes[:, level] for quantized in here])
            self._moving[index].update(residuals, codes)
            self._recent[index] = residuals
            self._used[index][codes] = True

    def _error(self, present: dict[int, Tensor], found: dict[int, Quantized]) -> tuple[float, float]:
        """As the step's codes give it, before the step changed the weights for the next one."""
        errors = [(self._quantizer.from_latent(found[source].quantized, source) - x).square().sum() for source, x in present.items()]
        return float(torch.stack(errors).sum()), float(sum(x.square().sum() for x in present.values()))

    def usage(self) -> float:
        """Share of all codes given out since the epoch began."""
        return float(torch.cat(self._used).float().mean())

    def restart_dead(self) -> int:
        """Moves every code that no slice got since the epoch began onto a recent residual; how many were moved."""
        blocks = zip(self._moving, self._used, self._recent, strict=True)
        return sum(moving.restart(~used, recent, self._generator) for moving, used, recent in blocks)

    def start_epoch(self) -> None:
        """Forgets which codes were given out."""
        for used in self._used:
            used.zero_()
