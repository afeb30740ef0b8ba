"""Sinkhorn: codes spread over the open ones, without leaving the nearest by much, and never NaN."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model.balanced_codes import balanced_codes


def test_codes_are_about_even() -> None:
    """Where nearest codes pile up on two of eight."""
    scores = torch.rand(800, 8, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 0.0] + [2.0] * 6)
    assert len(scores.argmin(dim=1).unique()) == 2
    counts = torch.bincount(balanced_codes(scores, 0.05), minlength=8)
    assert counts.min() > 50


def test_cold_and_separate_are_nearest() -> None:
    """Slices that are even already keep their nearest code."""
    scores = 1 - torch.eye(4).repeat(25, 1)
    assert balanced_codes(scores, 0.05).equal(scores.argmin(dim=1))


@settings(max_examples=40)
@given(rows=st.integers(0, 20), open_codes=st.integers(0, 5), temperature=st.sampled_from([1e-3, 0.1, 10.0]), seed=st.integers(0, 2**31))
def test_closed_codes_are_never_given(rows: int, open_codes: int, temperature: float, seed: int) -> None:
    """Any number of rows and open codes, also none and one."""
    scores = torch.full((rows, 6), torch.inf)
    scores[:, 6 - open_codes :] = 1e3 * torch.randn(rows, open_codes, generator=torch.Generator().manual_seed(seed))
    codes = balanced_codes(scores, temperature)
    assert codes.shape == (rows,)
    assert open_codes == 0 or (codes >= 6 - open_codes).all()


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_equal_scores_give_codes(value: float) -> None:
    """All distances the same: no division by zero."""
    assert balanced_codes(torch.full((7, 3), value), 0.1).max() < 3
