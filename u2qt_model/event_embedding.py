"""One vector per event: the sum of its hashed fields' embeddings, its projected values, and encodings of its time.

Slots have no position: an event's place in time lies in its values. R rows, T slots, F hashed fields, V values, E width.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from u2qt_model.config import FeatureLayout, SourceLayout
from u2qt_model.event_tensors import SourceEvents

HARMONICS = 4  # sine and cosine of 1 to 4 periods, for each of the two times
LONGEST_GAP = 12.0  # log(1 + seconds); a day is 11.4


def compressed(values: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): amounts and seconds span decades."""
    return values.sign() * values.abs().log1p()


def time_encodings(day_share: Tensor, log_gap: Tensor) -> Tensor:
    """(..., 16) of two (...): sin and cos of 2 pi k x share of the day, and of pi k x gap / LONGEST_GAP, k = 1 to 4.

    The day closes (midnight is both ends), the gap's scale doesn't. As in 1706.03762, section 3.5, on a time for a position.
    """
    k = torch.arange(1, HARMONICS + 1, dtype=day_share.dtype)
    day = 2 * math.pi * k * day_share.clamp(0, 1)[..., None]
    gap = math.pi * k * log_gap.clamp(0, LONGEST_GAP)[..., None] / LONGEST_GAP
    return torch.cat([day.sin(), day.cos(), gap.sin(), gap.cos()], dim=-1)


class ValueEmbedding(nn.Module):
    """One source's values: standardised, with time encodings and a constant that stands for the source; projected to E."""

    mean: Tensor  # (V,) of the compressed values of training events
    inverse_std: Tensor  # (V,), 0 where they never varied

    def __init__(self, source: SourceLayout, width: int, clip: float) -> None:
        super().__init__()
        self._timed, self._clip = source.timed, clip
        self.register_buffer("mean", torch.zeros(source.num_values))
        self.register_buffer("inverse_std", torch.zeros(source.num_values))
        features = source.num_values + 1 + (4 * HARMONICS if source.timed else 0)
        if source.kind == "profile":  # numbers are all it has in one event: an MLP
            self.network: nn.Module = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))
        else:
            self.network = nn.Linear(features, width)

    def standardised(self, events: SourceEvents) -> Tensor:
        """(R, T, V) in deviations of training events, cut at plus and minus clip; 0 outside the mask."""
        standard = ((compressed(events.values) - self.mean) * self.inverse_std).clamp(-self._clip, self._clip)
        return torch.where(events.mask[..., None], standard, 0.0)

    def forward(self, events: SourceEvents) -> Tensor:
        """(R, T, E)."""
        parts = [self.standardised(events), torch.ones(*events.mask.shape, 1)]
        if self._timed:
            day_share, log_gap = torch.where(events.mask[..., None], events.values[..., -2:], 0.0).unbind(dim=-1)
            parts.append(time_encodings(day_share, log_gap))
        return cast(Tensor, self.network(torch.cat(parts, dim=-1)))

    def fit(self, mean: Tensor, variance: Tensor) -> None:
        """Takes the moments (V,) of compressed values; all zero leaves the values out."""
        self.mean.copy_(mean)
        self.inverse_std.copy_(torch.where(variance > 1e-12, variance.clamp_min(1e-12).rsqrt(), 0.0))


class EventEmbedding(nn.Module):
    """All sources' events. One table of hashed ids serves them all: source and field are part of an id's hash."""

    def __init__(self, layout: FeatureLayout, width: int, clip: float) -> None:
        super().__init__()
        self.ids = nn.EmbeddingBag(layout.hash_buckets + 1, width, mode="sum", padding_idx=0)
        self.values = nn.ModuleList(ValueEmbedding(source, width, clip) for source in layout.sources)
        self.norm = nn.LayerNorm(width)

    def of(self, source: int) -> ValueEmbedding:
        """The source's value embedding."""
        return cast(ValueEmbedding, self.values[source])

    def forward(self, events: Sequence[SourceEvents]) -> list[Tensor]:
        """(R, T, E) per source; finite, but without meaning, outside the mask."""
        return [self._of_one(one, source) for source, one in enumerate(events)]

    def _of_one(self, events: SourceEvents, source: int) -> Tensor:
        rows, slots, fields = events.ids.shape
        embedded = cast(Tensor, self.values[source](events))
        if fields:
            ids = torch.where(events.mask[..., None], events.ids, 0).view(rows * slots, fields)
            embedded = embedded + self.ids(ids).view_as(embedded)
        return cast(Tensor, self.norm(embedded))


def pooled(embedded: Tensor, mask: Tensor) -> Tensor:
    """(R, E): the mean of (R, T, E) over the mask (R, T), zeros without an event."""
    kept = torch.where(mask[..., None], embedded, 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
