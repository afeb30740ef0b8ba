"""Which quantizer a source has: one for all sources, or one for the event sources and one for the profile alone.

S sources, N slices of a source, R rows, L levels, D dimensions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from u2qt_model.config import FeatureLayout, QuantizerConfig, require
from u2qt_model.quantizer import Quantizer

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A quantizer and the sources that it is for, which it knows by their place among them."""

    quantizer: Quantizer
    sources: tuple[int, ...]  # positions in catalog order

    def of(self, per_source: Sequence[T]) -> list[T]:
        """Its share of something that all S sources have."""
        return [per_source[source] for source in self.sources]


class SourceQuantizers:
    """The parts, and each source's way to its own."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._of = {source: (part.quantizer, place) for part in parts for place, source in enumerate(part.sources)}

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def num_levels(self, source: int) -> int:
        """L of a source."""
        return self._of[source][0].codebooks.config.num_levels

    def encode(self, x: Tensor, source: int) -> Tensor:
        """(R, L) int64 codes of projected slices (R, D)."""
        quantizer, place = self._of[source]
        return quantizer.encode(x, place)

    def margins(self, x: Tensor, codes: Tensor, source: int) -> Tensor:
        """(R, L) margins of codes (R, L) of projected slices (R, D)."""
        quantizer, place = self._of[source]
        return quantizer.margins(x, codes, place)

    def reconstruct(self, codes: Tensor, source: int) -> Tensor:
        """(R, D) of codes (R, L)."""
        quantizer, place = self._of[source]
        return quantizer.reconstruct(codes, place)


def alone(quantizer: Quantizer) -> SourceQuantizers:
    """One quantizer for all the sources that it knows."""
    return SourceQuantizers([Part(quantizer=quantizer, sources=tuple(range(quantizer.codebooks.num_sources)))])


def shares(layout: FeatureLayout, config: QuantizerConfig) -> list[tuple[QuantizerConfig, tuple[int, ...]]]:
    """Each part's configuration and sources; ConfigError for a profile's quantizer without a profile, or without events beside it."""
    everyone, own = tuple(range(len(layout.sources))), config.of_profile()
    if own is None:
        return [(config, everyone)]
    profiles = tuple(source for source in everyone if layout.sources[source].kind == "profile")
    both = 0 < len(profiles) < len(everyone)
    require(both, "quantizer.profile_levels", config.profile_levels, f"0: catalog {layout.catalog} has no profile beside event sources")
    return [(config, tuple(source for source in everyone if source not in profiles)), (own, profiles)]
