"""Which codebook blocks a quantizer has: one shared block per shared level, one own block per source and own level.

A slice of source s on level l reaches the codes [0, shared size) of the shared block and then those of its own block.
Pure functions of the configuration.
"""

from dataclasses import dataclass

from u2qt_model.config import QuantizerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One codebook: K codewords that all sources, or one, may use on one level."""

    level: int  # from 0
    source: int | None  # None: shared by all
    first: int  # its first code in the level's numbering
    size: int  # K

    def sources(self, num_sources: int) -> list[int]:
        """The sources that may use it."""
        return list(range(num_sources)) if self.source is None else [self.source]


def blocks(config: QuantizerConfig, num_sources: int) -> list[Block]:
    """Every block once: the shared ones by level, then level by level each source's own."""
    levels = range(config.num_levels)
    shared = [Block(level=n, source=None, first=0, size=config.shared_size(n)) for n in levels if config.shared_size(n)]
    own = [
        Block(level=n, source=source, first=config.shared_size(n), size=config.own_block_size(n))
        for n in levels
        if config.own_block_size(n)
        for source in range(num_sources)
    ]
    return shared + own
