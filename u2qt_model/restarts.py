"""Dead codes, on every level and in every block, move onto the slices that are reconstructed worst.

A code that moved stands for what a slice leaves when its other levels keep their codes. N slices, K codes of a block.
"""

import torch
from torch import Tensor

from u2qt_model.codebooks import SAME
from u2qt_model.quantizer import CodebookStack


def used_codes(codebooks: CodebookStack, codes: list[Tensor]) -> list[Tensor]:
    """Per block (K,) bool: which of its codes occur in S tensors of codes (N, l), l levels from the first."""
    used = []
    for block in codebooks.blocks():
        mask = torch.zeros(block.size, dtype=torch.bool)
        for source in block.sources(codebooks.num_sources):
            if block.level < codes[source].shape[1]:
                inside = codes[source][:, block.level] - block.first
                mask[inside[(inside >= 0) & (inside < block.size)]] = True
        used.append(mask)
    return used


@torch.no_grad()
def restart_dead(codebooks: CodebookStack, latents: list[Tensor], codes: list[Tensor], used: list[Tensor]) -> list[Tensor]:
    """Moves each block's open codes that aren't `used` (K,); returns per block which (M,) were moved.

    `latents` S x (N, D) and their `codes` S x (N, l) are where they move to; a level that the codes lack is left alone.
    """
    left = [x - codebooks.lookup(c, source) for source, (x, c) in enumerate(zip(latents, codes, strict=True))]
    moved = []
    for block, occurs in zip(codebooks.blocks(), used, strict=True):
        codewords, is_open = codebooks.block(block)
        sources = [s for s in block.sources(codebooks.num_sources) if len(left[s]) and block.level < codes[s].shape[1]]
        dead = torch.nonzero(is_open & ~occurs).flatten()
        if not len(dead) or not sources:
            moved.append(dead[:0])
            continue
        rows = torch.cat([left[source] for source in sources])
        worst = rows.square().sum(dim=1).topk(min(len(dead), len(rows)))
        useful = worst.values > SAME * rows.shape[1]
        targets = torch.cat([left[s] + codebooks.table(s, block.level)[0][codes[s][:, block.level]] for s in sources])
        dead = dead[: len(useful)][useful]
        codewords[dead] = targets[worst.indices[useful]]
        moved.append(dead)
    return moved
