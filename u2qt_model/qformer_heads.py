"""What stands on a Q-Former while it is trained, and is thrown away after: decoders of each source, and predictors.

R rows, S sources, q queries per source, E width, H bag buckets, V values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.event_embedding import pooled
from u2qt_model.event_tensors import SourceEvents
from u2qt_model.qformer import EncodedUsers, QFormer, draw_linear
from u2qt_model.qformer_losses import bag, bag_loss, context, info_nce, value_loss


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormerLoss:
    """The loss of R users, each part the mean over what it was measured on; 0 where that was nothing."""

    bags: Tensor  # ()
    values: Tensor  # ()
    contrast: Tensor  # ()
    total: Tensor  # (), the weighted sum
    slices: int  # present ones


class QFormerHeads(nn.Module):
    """Linear decoders of slice embeddings to bags and values, and linear maps of both sides of each contrast."""

    def __init__(self, layout: FeatureLayout, config: TokenizerConfig) -> None:
        """Weights are drawn from `config.training.seed + 1`."""
        super().__init__()
        self._sizes = config.qformer
        embedded, width = config.qformer.queries * config.qformer.width, config.qformer.width
        self.bags = nn.ModuleList(nn.Linear(embedded, config.qformer.bag_buckets) for _ in layout.sources)
        self.values = nn.ModuleList(nn.Linear(embedded, max(source.num_values, 1)) for source in layout.sources)
        self.predictors = nn.ModuleList(nn.Linear(embedded, width) for _ in layout.sources[1:])
        self.targets = nn.ModuleList(nn.Linear(width, width) for _ in layout.sources[1:])
        draw_linear(self, torch.Generator().manual_seed(config.training.seed + 1))

    def forward(self, network: QFormer, events: Sequence[SourceEvents]) -> QFormerLoss:
        """The loss of `network` on R users' events."""
        encoded = network(events)
        present = encoded.present.float()
        slices = present.sum().clamp_min(1)
        bags = (torch.stack([self._bag_loss(encoded, one, source) for source, one in enumerate(events)], dim=1) * present).sum() / slices
        standardised = [network.events.of(source).standardised(one) for source, one in enumerate(events)]
        values = [self._value_loss(encoded, x, one, source) for source, (x, one) in enumerate(zip(standardised, events, strict=True))]
        by_value = (torch.stack(values, dim=1) * present).sum() / slices
        contrast = self._contrast(encoded)
        weights = self._sizes
        total = weights.bag_weight * bags + weights.value_weight * by_value + weights.contrast_weight * contrast
        return QFormerLoss(bags=bags, values=by_value, contrast=contrast, total=total, slices=int(encoded.present.sum()))

    def _bag_loss(self, encoded: EncodedUsers, events: SourceEvents, source: int) -> Tensor:
        shares = bag(events.ids, events.mask, self._sizes.bag_buckets)
        return bag_loss(cast(Tensor, self.bags[source](encoded.slices[:, source])), shares)

    def _value_loss(self, encoded: EncodedUsers, standardised: Tensor, events: SourceEvents, source: int) -> Tensor:
        target = pooled(standardised, events.mask)
        predicted = cast(Tensor, self.values[source](encoded.slices[:, source]))
        return value_loss(predicted[:, : target.shape[1]], target)

    def _contrast(self, encoded: EncodedUsers) -> Tensor:
        """Mean over (user, source s + 1) of what groups <= s foretell of its content; users without either are left out."""
        losses = [encoded.slices.sum() * 0.0]
        counted = 0
        for source, (predictor, target) in enumerate(zip(self.predictors, self.targets, strict=True)):
            known, has_any = context(encoded.slices, encoded.present, source)
            rows = has_any & encoded.present[:, source + 1]
            losses.append(info_nce(predictor(known[rows]), target(encoded.content[rows, source + 1]), self._sizes.temperature).sum())
            counted += int(rows.sum())
        return torch.stack(losses).sum() / max(counted, 1)
