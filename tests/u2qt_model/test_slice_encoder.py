"""The frozen projection and the near-identity block."""

import pytest
import torch
from torch import Tensor

from u2qt_model.slice_encoder import NearIdentity, Projection, principal_axes


def _x(rows: int, width: int = 6, seed: int = 0) -> Tensor:
    """Unequal scales and means."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) * torch.arange(1, width + 1) + 3


def _fitted(x: Tensor, code_dim: int, clip: float = 8.0) -> Projection:
    projection = Projection(x.shape[1], code_dim, clip)
    wide = x.double()
    projection.fit(wide.mean(dim=0), wide.var(dim=0, correction=0), x)
    return projection


def test_projected_sample_has_mean_zero_and_mean_square_one() -> None:
    """So that shared codebooks see sources of equal size."""
    x = _x(500)
    for code_dim in (2, 4, 6):
        y = _fitted(x, code_dim)(x)
        torch.testing.assert_close(y.mean(dim=0), torch.zeros(code_dim), atol=1e-5, rtol=0)
        assert float(y.square().sum(dim=1).mean()) == pytest.approx(code_dim, rel=1e-4)


def test_axes_fall_and_are_orthonormal() -> None:
    """Falling variances; the sign is fixed by the largest entry."""
    x = _x(300) - 3
    values, axes = principal_axes(x - x.mean(dim=0), 4)
    assert (values.diff() <= 0).all()
    torch.testing.assert_close(axes.T @ axes, torch.eye(4), atol=1e-5, rtol=0)
    assert (axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_all_axes_keep_all_variance() -> None:
    """Fewer keep less; more than there are leave zero columns."""
    x = _x(500)
    assert float(_fitted(x, 6).kept_variance) == pytest.approx(1, abs=1e-4)
    assert 0.3 < float(_fitted(x, 2).kept_variance) < 0.6
    wide = _fitted(x, 9)
    assert (wide.basis[:, 6:] == 0).all()
    assert wide(x).isfinite().all()


def test_outliers_are_cut() -> None:
    """At plus and minus clip deviations, infinity included."""
    projection = _fitted(_x(500), 3, clip=2.0)
    far = torch.full((1, 6), 1e30)
    assert projection.standardise(far).tolist() == [[2.0] * 6]
    assert projection.standardise(-far).tolist() == [[-2.0] * 6]


def test_dimension_that_never_varied_says_nothing() -> None:
    """Whatever value arrives there later."""
    x = _x(100)
    x[:, 2] = 5.0
    projection = _fitted(x, 3)
    other = x.clone()
    other[:, 2] = 1e6
    assert projection(other).equal(projection(x))


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_learn_projects_onto_zero(rows: int) -> None:
    """No sample, or one slice."""
    projection = Projection(6, 3, 8.0)
    projection.fit(torch.zeros(6).double(), torch.zeros(6).double(), _x(rows))
    assert (projection(_x(5)) == 0).all()


def test_sample_without_variance_projects_onto_zero() -> None:
    """Though all slices together vary: rounding isn't an axis."""
    projection = Projection(6, 3, 8.0)
    projection.fit(_x(500).double().mean(dim=0), torch.ones(6).double(), _x(1).repeat(50, 1))
    assert (projection(_x(5)) == 0).all()


def test_few_distinct_rows_have_axes() -> None:
    """Covariances of rank 1 to 4 in 256 dimensions; torch.linalg.eigh doesn't converge on some of them."""
    generator = torch.Generator().manual_seed(0)
    for kinds in (2, 3, 4, 5) * 5:
        sparse = torch.randn(kinds, 256, generator=generator) * (torch.rand(256, generator=generator) < 0.05)
        x = sparse[torch.randint(kinds, (50,), generator=generator)] + 1
        y = _fitted(x, 8)(x)
        assert y.isfinite().all()
        assert len(y.unique(dim=0)) == len(x.unique(dim=0))


def test_block_starts_as_the_identity() -> None:
    """To the last bit; the gradient still reaches it."""
    block = NearIdentity(6, 16, torch.Generator().manual_seed(0))
    assert block(_x(5)).equal(_x(5))
    block(_x(5)).sum().backward()
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in block.parameters())
