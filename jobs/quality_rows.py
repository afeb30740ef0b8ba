"""metrics.json of a tokenizer as rows of `codebook_quality`. Pure."""

from collections.abc import Mapping
from typing import Any

Row = tuple[object, ...]


def quality_rows(version: str, metrics: Mapping[str, Any], run_id: str) -> list[Row]:
    """One row per source, level and codebook, in the order of the table's columns."""
    return [
        row
        for source, found in metrics["sources"].items()
        for level in range(1, len(found["levels"]) + 1)
        for row in _of_level(version, source, level, found, run_id)
    ]


def _of_level(version: str, source: str, level: int, found: Mapping[str, Any], run_id: str) -> list[Row]:
    quantiles = found["margin_quantiles"][level - 1] or [None] * 4
    of_source = (found["relative_squared_error"][level - 1], found["unique_sequence_rate"], found["collision_rate"], *quantiles)
    return [
        (
            *(version, source, level, codebook, use["codebook_size"], use["codebook_size"] - use["dead_codes"], use["dead_codes"]),
            *(use["perplexity"], use["gini"], *of_source, found["slices"], found["held_out_slices"], run_id),
        )
        for codebook, use in found["levels"][level - 1]["codebooks"].items()
    ]
