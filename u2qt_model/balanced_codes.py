"""Sinkhorn-balanced codes: in a batch every open code of a block gets about as many slices (Cuturi 2013; Asano 2020).

Per block, in the logarithm: masking foreign blocks with large numbers would leave float32 no digits for the distances.
N slices, K codes.
"""

import torch
from torch import Tensor

STEPS = 5  # of normalising columns and rows


def balanced_codes(scores: Tensor, temperature: float) -> Tensor:
    """(N,) codes of scores (N, K), half squared distances with +inf at closed codes; `temperature` in their mean spread."""
    is_open = scores.isfinite().all(dim=0)
    if not len(scores) or not is_open.any():
        return scores.new_zeros(len(scores), dtype=torch.int64)
    centred = scores[:, is_open] - scores[:, is_open].amin(dim=1, keepdim=True)
    plan = -centred / (temperature * centred.mean()).clamp_min(1e-12)
    for _ in range(STEPS):
        plan = plan - plan.logsumexp(dim=0, keepdim=True)
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
    return torch.nonzero(is_open).flatten()[plan.argmax(dim=1)]
