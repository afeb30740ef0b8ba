"""A causal Q-Former (2508.00956; sizes and masks are ours): ordered groups of learned queries read each user's events.

Group s is the q queries of source s, in catalog order. In self-attention it sees itself and earlier groups whose source
is present; in every second block it attends to the events of source s, and to nothing else. So nothing later changes an
earlier group, and an absent source is no key for anyone. Background: Q-Former, 2301.12597.

R rows, S sources, q queries per source, T slots of a source, N slots of all sources, E width, h heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.event_embedding import EventEmbedding, pooled
from u2qt_model.event_tensors import SourceEvents

QUERY_STD, ID_STD = 0.02, 0.5  # at the start; a few ids are then about as loud in an event as its values


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedUsers:
    """R users after the network."""

    slices: Tensor  # (R, S, q E): the source's queries side by side; finite, but without meaning, where absent
    content: Tensor  # (R, S, E): mean embedding of the source's events before any attention, zeros where absent
    present: Tensor  # (R, S) bool


def group_mask(present: Tensor, queries: int) -> Tensor:
    """(R, S q, S q) bool, who sees whom, of `present` (R, S): one's own group, and earlier present ones."""
    sources = present.shape[1]
    earlier = torch.ones(sources, sources, dtype=torch.bool).tril(-1)
    groups = (earlier & present[:, None, :]) | torch.eye(sources, dtype=torch.bool)
    return groups.repeat_interleave(queries, dim=1).repeat_interleave(queries, dim=2)


def event_mask(masks: Sequence[Tensor], queries: int) -> Tensor:
    """(R, S q, N) bool of S masks (R, T): each group sees its own source's events."""
    blocks = [functional.pad(mask[:, None], _around(masks, source)) for source, mask in enumerate(masks)]
    return torch.cat(blocks, dim=1).repeat_interleave(queries, dim=1)


def _around(masks: Sequence[Tensor], source: int) -> tuple[int, int]:
    """Slots of the sources before and after."""
    slots = [mask.shape[1] for mask in masks]
    return sum(slots[:source]), sum(slots[source + 1 :])


class Attention(nn.Module):
    """Multi-head attention (1706.03762, section 3.2); a query that sees nothing gets zeros before the output's bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.to_output = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        """(R, Q, E) of queries (R, Q, E), keys (R, N, E) and `seen` (R, Q, N) bool."""
        query = self._split(self.to_query(queries))
        key, value = map(self._split, self.to_key_value(keys).chunk(2, dim=-1))
        sees = seen.any(dim=-1, keepdim=True)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=(seen | ~sees)[:, None])
        joined = found.transpose(1, 2).flatten(2)
        return cast(Tensor, self.to_output(torch.where(sees, joined, 0.0)))

    def _split(self, x: Tensor) -> Tensor:
        """(R, h, N, E / h) of (R, N, E)."""
        return x.view(*x.shape[:2], self._heads, x.shape[2] // self._heads).transpose(1, 2)


class Block(nn.Module):
    """Self-attention over groups, in every second block cross-attention to events, then an MLP; norms come first."""

    def __init__(self, width: int, heads: int, *, reads_events: bool) -> None:
        super().__init__()
        self.among = Attention(width, heads)
        self.norm_among = nn.LayerNorm(width)
        self.reading = Attention(width, heads) if reads_events else None
        self.norm_reading = nn.LayerNorm(width) if reads_events else None
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, events: Tensor, seen_queries: Tensor, seen_events: Tensor) -> Tensor:
        """(R, S q, E) of itself, events (R, N, E) and the two masks."""
        norm = self.norm_among(x)
        x = x + self.among(norm, norm, seen_queries)
        if self.reading is not None and self.norm_reading is not None:
            x = x + self.reading(self.norm_reading(x), events, seen_events)
        return x + cast(Tensor, self.mlp(x))


class QFormer(nn.Module):
    """Events of users to one vector per source. The weights don't know how many slots a source has."""

    def __init__(self, layout: FeatureLayout, config: TokenizerConfig) -> None:
        """Weights are drawn from `config.training.seed`."""
        super().__init__()
        sizes = config.qformer
        self._per_source = sizes.queries
        self.slice_width = sizes.queries * sizes.width
        self.events = EventEmbedding(layout, sizes.width, config.encoder.clip)
        self.queries = nn.Parameter(torch.empty(len(layout.sources) * sizes.queries, sizes.width))
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads, reads_events=index % 2 == 0) for index in range(sizes.blocks))
        self.norm = nn.LayerNorm(sizes.width)
        generator = torch.Generator().manual_seed(config.training.seed)
        draw_linear(self, generator)
        nn.init.normal_(self.queries, std=QUERY_STD, generator=generator)
        nn.init.normal_(self.events.ids.weight, std=ID_STD, generator=generator)

    def forward(self, events: Sequence[SourceEvents]) -> EncodedUsers:
        """`events` as `source_events` gives them."""
        embedded = self.events(events)
        present = torch.stack([one.present for one in events], dim=1)
        seen_queries, seen_events = group_mask(present, self._per_source), event_mask([one.mask for one in events], self._per_source)
        keys = torch.cat(embedded, dim=1)
        x = self.queries.expand(len(present), -1, -1)
        for block in self.blocks:
            x = block(x, keys, seen_queries, seen_events)
        return EncodedUsers(
            slices=self.norm(x).view(len(present), len(events), self.slice_width),
            content=torch.stack([pooled(part, one.mask) for part, one in zip(embedded, events, strict=True)], dim=1),
            present=present,
        )


def draw_linear(module: nn.Module, generator: torch.Generator) -> None:
    """Xavier weights and zero biases for every linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            nn.init.zeros_(part.bias)
