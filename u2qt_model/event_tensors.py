"""Event arrays of a batch as tensors, one shape for every kind of source: a profile is a source with one event.

R rows, T event slots of a source, F hashed fields, V numeric values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from u2qt_model.batch import FeatureBatch, ProfileSlices
from u2qt_model.config import FeatureLayout, SourceLayout
from u2qt_model.errors import BatchError


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceEvents:
    """One source's events of R users. What lies outside the mask has no meaning, and no effect."""

    ids: Tensor  # (R, T, F) int32 in [0, hash_buckets], 0 is padding
    values: Tensor  # (R, T, V) float32
    mask: Tensor  # (R, T) bool, True is an event; none where the source is absent

    @property
    def present(self) -> Tensor:
        """(R,) bool: the source has an event."""
        return self.mask.any(dim=1)


def source_events(batch: FeatureBatch, layout: FeatureLayout, rows: NDArray[np.int64], size: int) -> tuple[SourceEvents, ...]:
    """Each source's events of `rows`, catalog order, filled up to R = `size` rows in which every source is absent.

    BatchError where the batch was read without event arrays.
    """
    return tuple(_of_one(batch, source, rows, size) for source in layout.sources)


def _of_one(batch: FeatureBatch, source: SourceLayout, rows: NDArray[np.int64], size: int) -> SourceEvents:
    slices = batch.slices[source.name]
    if isinstance(slices, ProfileSlices):
        ids, values, mask = slices.ids[:, None], slices.values[:, None], slices.present[:, None]
    elif slices.event_ids is None or slices.event_values is None or slices.mask is None:
        raise BatchError(f"{source.name}_event_ids: column missing, expected the event arrays, which a Q-Former reads; open the stream with events=True")
    else:
        ids, values, mask = slices.event_ids, slices.event_values, slices.mask & slices.present[:, None]
    return SourceEvents(ids=_filled_up(ids[rows], size), values=_filled_up(values[rows], size), mask=_filled_up(mask[rows], size))


def _filled_up(chosen: NDArray[Any], size: int) -> Tensor:
    whole = np.zeros((size, *chosen.shape[1:]), chosen.dtype)
    whole[: len(chosen)] = chosen
    return torch.from_numpy(whole)


def joined(parts: Sequence[tuple[SourceEvents, ...]]) -> tuple[SourceEvents, ...]:
    """The rows of all parts, of which there is at least one, source by source."""
    return tuple(
        SourceEvents(
            ids=torch.cat([one.ids for one in of_source]),
            values=torch.cat([one.values for one in of_source]),
            mask=torch.cat([one.mask for one in of_source]),
        )
        for of_source in zip(*parts, strict=True)
    )
