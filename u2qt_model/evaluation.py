"""A quantizer measured on projected slices: the error that decides which weights are kept, and the report.

S sources, N slices of a source, L levels, D dimensions.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from u2qt_model.config import QuantizerConfig
from u2qt_model.metrics import (
    collision_rate,
    level_report,
    margin_quantiles,
    relative_squared_error,
    squared_errors,
    unique_sequence_rate,
)
from u2qt_model.quantizer import Quantizer
from u2qt_model.ranks import ALONE, Ranks
from u2qt_model.source_quantizers import Part

CHUNK = 4096  # slices per matrix product


@torch.no_grad()
def assign(quantizer: Quantizer, slices: list[Tensor]) -> list[Tensor]:
    """(N, L) int64 codes per source of S tensors (N, D), the quantizer's sources."""
    levels = quantizer.codebooks.config.num_levels
    empty = torch.zeros(0, levels, dtype=torch.int64)
    return [torch.cat([empty, *(quantizer.encode(part, source) for part in torch.split(x, CHUNK) if len(part))]) for source, x in enumerate(slices)]


@torch.no_grad()
def errors(quantizer: Quantizer, slices: list[Tensor], codes: list[Tensor], levels: int) -> list[tuple[float, float]]:
    """Per source the summed squared error after the first `levels` levels, and the length it is relative to."""
    pairs = []
    for source, (x, chosen) in enumerate(zip(slices, codes, strict=True)):
        reconstruction = quantizer.reconstruct(chosen[:, :levels], source)
        pairs.append(squared_errors(x.numpy(), reconstruction.numpy()))
    return pairs


def total_error(quantizers: Iterable[Part], slices: list[Tensor], ranks: Ranks = ALONE) -> float:
    """Relative squared error over all sources' slices, of which each rank measures its part."""
    mine = [ranks.mine(x) for x in slices]
    pairs = [pair for part in quantizers for pair in _part_errors(part.quantizer, part.of(mine))]
    total = torch.tensor([sum(error for error, _ in pairs), sum(length for _, length in pairs)], dtype=torch.float64)
    ranks.add([total])
    return relative_squared_error(*total.tolist())


def _part_errors(quantizer: Quantizer, slices: list[Tensor]) -> list[tuple[float, float]]:
    return errors(quantizer, slices, assign(quantizer, slices), quantizer.codebooks.config.num_levels)


@torch.no_grad()
def margins(quantizer: Quantizer, x: Tensor, codes: Tensor, source: int) -> NDArray[np.float32]:
    """(N, L) margins of the codes (N, L) of one source's slices (N, D)."""
    parts = zip(torch.split(x, CHUNK), torch.split(codes, CHUNK), strict=True)
    found = [quantizer.margins(part, chosen, source).numpy() for part, chosen in parts if len(part)]
    return np.concatenate([np.zeros(codes.shape, np.float32)[:0], *found])


def level_use(codes: NDArray[np.int64], config: QuantizerConfig, level: int) -> dict[str, Any]:
    """Use of a level by one source's codes (N,), and of its shared and own codes apart."""
    shared, own = config.shared_size(level), config.own_block_size(level)
    apart = {
        name: {"codebook_size": size, **level_report(codes[(codes >= first) & (codes < first + size)] - first, size)}
        for name, first, size in (("shared", 0, shared), ("own", shared, own))
        if size
    }
    return {**level_report(codes, config.level_size(level)), "codebooks": apart}


def source_reports(quantizers: Iterable[Part], training: list[Tensor], held_out: list[Tensor]) -> list[dict[str, Any]]:
    """Per source: error after each level on `held_out`, use of each level's codes by the `training` sample."""
    found: list[dict[str, Any]] = [{} for _ in training]
    for part in quantizers:
        for source, report in zip(part.sources, _part_reports(part.quantizer, part.of(training), part.of(held_out)), strict=True):
            found[source] = report
    return found


def _part_reports(quantizer: Quantizer, training: list[Tensor], held_out: list[Tensor]) -> list[dict[str, Any]]:
    config = quantizer.codebooks.config
    codes, unseen = assign(quantizer, training), assign(quantizer, held_out)
    by_level = [errors(quantizer, held_out, unseen, level + 1) for level in range(config.num_levels)]
    return [
        {
            "relative_squared_error": [relative_squared_error(*pairs[source]) for pairs in by_level],
            "unique_sequence_rate": unique_sequence_rate(unseen[source].numpy()),
            "collision_rate": collision_rate(unseen[source].numpy(), held_out[source].numpy()),
            "margin_quantiles": margin_quantiles(margins(quantizer, held_out[source], unseen[source], source)),
            "levels": [level_use(codes[source][:, level].numpy(), config, level) for level in range(config.num_levels)],
        }
        for source in range(len(training))
    ]


def block_reports(quantizers: Iterable[Part], training: list[Tensor], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Per codebook (a shared one counts all sources): whose it is, its level from 1, and the use of its codes."""
    return [report for part in quantizers for report in _part_blocks(part.quantizer, part.of(training), part.of(names))]


def _part_blocks(quantizer: Quantizer, training: list[Tensor], names: list[str]) -> list[dict[str, Any]]:
    codebooks, codes = quantizer.codebooks, assign(quantizer, training)
    reports = []
    for block in codebooks.blocks():
        given = np.concatenate([codes[source][:, block.level].numpy() for source in block.sources(codebooks.num_sources)]) - block.first
        inside = given[(given >= 0) & (given < block.size)]
        owner = "shared" if block.source is None else names[block.source]
        reports.append({"codebook": owner, "level": block.level + 1, "codebook_size": block.size, **level_report(inside, block.size)})
    return reports


def shared_reports(quantizers: Iterable[Part], blocks: list[dict[str, Any]], held_out: list[Tensor], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The shared ones of `block_reports`, with the sources that have them, and error and margins of all these sources' `held_out` slices.

    Slices of two sources are different slices, whatever their codes.
    """
    shared = [{name: found for name, found in block.items() if name != "codebook"} for block in blocks if block["codebook"] == "shared"]
    sharing = [part for part in quantizers if any(block.source is None for block in part.quantizer.codebooks.blocks())]
    return [report for part in sharing for report in _part_shared(part.quantizer, shared, part.of(held_out), part.of(names))]


def _part_shared(quantizer: Quantizer, shared: list[dict[str, Any]], held_out: list[Tensor], names: list[str]) -> list[dict[str, Any]]:
    unseen = assign(quantizer, held_out)
    codes, slices = _labelled(unseen), _labelled(held_out)
    margins_of = [margins(quantizer, x, chosen, source) for source, (x, chosen) in enumerate(zip(held_out, unseen, strict=True))]
    quantiles = margin_quantiles(np.concatenate(margins_of))
    everywhere = {"sources": names, "unique_sequence_rate": unique_sequence_rate(codes), "collision_rate": collision_rate(codes, slices)}
    return [
        {
            **block,
            **everywhere,
            "relative_squared_error": _error(quantizer, held_out, unseen, block["level"]),
            "margin_quantiles": quantiles[block["level"] - 1],
        }
        for block in shared
    ]


def _labelled(per_source: list[Tensor]) -> NDArray[Any]:
    """S arrays (N, X) under each other as (sum of N, 1 + X), the source's number before each row."""
    return np.concatenate([np.pad(rows.numpy(), ((0, 0), (1, 0)), constant_values=source) for source, rows in enumerate(per_source)])


def _error(quantizer: Quantizer, slices: list[Tensor], codes: list[Tensor], levels: int) -> float:
    """Relative squared error of all sources' slices after the first `levels` levels."""
    pairs = errors(quantizer, slices, codes, levels)
    return relative_squared_error(sum(error for error, _ in pairs), sum(length for _, length in pairs))
