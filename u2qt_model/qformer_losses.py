"""What a Q-Former is trained by, as functions of tensors. Every one is finite, and 0 where nothing is there to be learnt.

R rows, T slots, F hashed fields, V values, H bag buckets, E width, N chosen rows.
"""

import torch
from torch import Tensor
from torch.nn import functional


def bag(ids: Tensor, mask: Tensor, buckets: int) -> Tensor:
    """float32 (R, H), shares of the hashed fields (R, T, F) of events in the mask (R, T) by id mod H; zeros without any."""
    counted = (ids != 0) & mask[..., None]
    counts = torch.zeros(len(ids), buckets).scatter_add_(1, (ids % buckets).flatten(1).long(), counted.flatten(1).float())
    return counts / counts.sum(dim=1, keepdim=True).clamp_min(1)


def bag_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """(R,) sum_h p_h (log p_h - log softmax(logits)_h): the multinomial likelihood of 1802.05814 less its least value.

    `logits` and `shares` p are (R, H); a row without shares gives 0.
    """
    least: Tensor = torch.special.entr(shares).sum(dim=1)
    return -(shares * functional.log_softmax(logits, dim=1)).sum(dim=1) - least


def value_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """(R,) mean squared error over the values of (R, V); 0 where V is 0."""
    return (predicted - target).square().sum(dim=1) / max(target.shape[1], 1)


def info_nce(predicted: Tensor, target: Tensor, temperature: float) -> Tensor:
    """(N,) -log exp(c_ii / temperature) / sum_j exp(c_ij / temperature), c the cosines of (N, E) and (N, E) (1807.03748).

    The other rows are the negatives, so one row alone gives 0.
    """
    cosines = functional.normalize(predicted, dim=1) @ functional.normalize(target, dim=1).T
    return functional.cross_entropy(cosines / temperature, torch.arange(len(cosines)), reduction="none")


def context(slices: Tensor, present: Tensor, source: int) -> tuple[Tensor, Tensor]:
    """What groups <= source know: the mean (R, W) of the present ones of (R, S, W), and which rows (R,) have any."""
    known = present[:, : source + 1]
    kept = torch.where(known[..., None], slices[:, : source + 1], 0.0)
    return kept.sum(dim=1) / known.sum(dim=1, keepdim=True).clamp_min(1), known.any(dim=1)
