"""The start of the codebooks: level by level k-means on what the levels before left, each source within its own reach.

N slices of a source, K codes of a block, D dimensions.
"""

import torch
from torch import Tensor

from u2qt_model.blocks import Block
from u2qt_model.codebooks import fill_empty, kmeans, nearest, totals
from u2qt_model.quantizer import CodebookStack


@torch.no_grad()
def start_codebooks(codebooks: CodebookStack, latents: list[Tensor], generator: torch.Generator) -> None:
    """Sets all codebooks from S samples (N, D), some maybe empty."""
    residuals = list(latents)
    for level in range(codebooks.config.num_levels):
        _start_level(codebooks, level, residuals, generator)
        for source, residual in enumerate(residuals):
            table, is_open = codebooks.table(source, level)
            residuals[source] = residual - table[nearest(residual, table, is_open)[0]]


def _start_level(codebooks: CodebookStack, level: int, residuals: list[Tensor], generator: torch.Generator) -> None:
    """In layout width the own blocks start on the slices that the shared one fits worst, then both move together."""
    config = codebooks.config
    blocks = [block for block in codebooks.blocks() if block.level == level]
    for block in blocks:  # the shared one first
        rows = torch.cat([residuals[source] for source in block.sources(codebooks.num_sources)])
        if block.first:
            rows = _worst(rows, codebooks.block(blocks[0]), share=block.size / config.level_size(level))
        found = kmeans(rows, block.size, config.kmeans_iterations, generator, spread=config.start == "kmeans++")
        for tensor, started in zip(codebooks.block(block), found, strict=False):
            tensor.copy_(started)
    if config.shared_size(level) and config.own_block_size(level):
        for step in range(config.kmeans_iterations):
            nearest_codes = [nearest(residual, *codebooks.table(source, level)) for source, residual in enumerate(residuals)]
            for block in blocks:
                _move(codebooks, block, residuals, nearest_codes, fill=step + 1 < config.kmeans_iterations)


def _worst(rows: Tensor, shared: tuple[Tensor, Tensor], *, share: float) -> Tensor:
    """The `share` of `rows` (N, D) that lie farthest from a shared codeword."""
    if not len(rows):
        return rows
    distances = nearest(rows, *shared)[1]
    return rows[distances.topk(max(1, round(share * len(rows)))).indices]


def _move(codebooks: CodebookStack, block: Block, residuals: list[Tensor], found: list[tuple[Tensor, Tensor]], *, fill: bool) -> None:
    """One Lloyd step of one block of a level with two; `found` are codes (N,) and squared distances (N,) per source."""
    sources = block.sources(codebooks.num_sources)
    rows = torch.cat([residuals[source] for source in sources])
    codes = torch.cat([found[source][0] for source in sources]) - block.first
    inside = (codes >= 0) & (codes < block.size)
    sums, members = totals(rows[inside], codes[inside], block.size)
    codewords, is_open = codebooks.block(block)
    codewords.copy_(sums / members.clamp_min(1)[:, None])
    is_open.copy_(members > 0)
    if fill:
        fill_empty(codewords, is_open, rows, torch.cat([found[source][1] for source in sources]))
