"""metrics.json of a tokenizer as rows of `codebook_quality`. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.errors import BadInput
from schemas.codebook_quality import ALL_SOURCES

Row = tuple[object, ...]


def quality_rows(version: str, metrics: Mapping[str, Any], run_id: str) -> list[Row]:
    """One row per source, level and codebook, then one per shared codebook for all sources together, in the order of the table's columns.

    Raises `BadInput` where the metrics are not those that training writes.
    """
    try:
        return _rows(version, metrics, run_id)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise BadInput(
            f"tokenizer {version}, metrics.json: {type(error).__name__} at {error}, expected the figures of `u2qt train` of this release; train it again"
        ) from None


def _rows(version: str, metrics: Mapping[str, Any], run_id: str) -> list[Row]:
    of_sources = [
        row
        for source, found in metrics["sources"].items()
        for level in range(1, len(found["levels"]) + 1)
        for row in _of_level(version, source, level, found, run_id)
    ]
    return of_sources + [_of_all(version, found, metrics["sources"], run_id) for found in metrics["shared"]]


def _of_all(version: str, found: Mapping[str, Any], sources: Mapping[str, Any], run_id: str) -> Row:
    slices = {name: sum(sources[source][name] for source in found["sources"]) for name in ("slices", "held_out_slices")}
    return _row(version, ALL_SOURCES, found["level"], "shared", found, {**found, **slices}, found["margin_quantiles"], run_id)


def _of_level(version: str, source: str, level: int, found: Mapping[str, Any], run_id: str) -> list[Row]:
    of_source = {**found, "relative_squared_error": found["relative_squared_error"][level - 1]}
    quantiles = found["margin_quantiles"][level - 1]
    return [_row(version, source, level, codebook, use, of_source, quantiles, run_id) for codebook, use in found["levels"][level - 1]["codebooks"].items()]


def _row(
    version: str, source: str, level: int, codebook: str, use: Mapping[str, Any], found: Mapping[str, Any], quantiles: Sequence[float | None], run_id: str
) -> Row:
    return (
        *(version, source, level, codebook, use["codebook_size"], use["codebook_size"] - use["dead_codes"], use["dead_codes"]),
        *(use["perplexity"], use["gini"], found["relative_squared_error"], found["unique_sequence_rate"], found["collision_rate"]),
        *(quantiles or (None,) * 4),
        *(found["slices"], found["held_out_slices"], run_id),
    )
