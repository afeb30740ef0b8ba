"""The losses against numbers worked out by hand, and at the edges where a mean of nothing would be NaN."""

import math

import torch

from u2qt_model.qformer_losses import bag, bag_loss, context, info_nce, value_loss


def test_bag_is_the_shares_of_hashed_fields() -> None:
    """Padding and events outside the mask don't count; ids are folded by modulo."""
    ids = torch.tensor([[[1, 4], [5, 0], [2, 2]], [[1, 1], [1, 1], [1, 1]]], dtype=torch.int32)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(bag(ids, mask, 4), torch.tensor([[1 / 3, 2 / 3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))


def test_bag_loss_is_the_divergence() -> None:
    """0 for the right shares, log 2 for one of two by a coin, 0 for a row without shares."""
    shares = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.0, 0.0]])
    logits = torch.tensor([[math.log(0.25), math.log(0.75)], [3.0, 3.0], [5.0, -5.0]])
    torch.testing.assert_close(bag_loss(logits, shares), torch.tensor([0.0, math.log(2), 0.0]), atol=1e-6, rtol=0)


def test_value_loss_is_the_mean_square() -> None:
    """Over the values; 0 without any."""
    torch.testing.assert_close(value_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])), torch.tensor([2.5]))
    assert value_loss(torch.zeros(2, 0), torch.zeros(2, 0)).tolist() == [0.0, 0.0]


def test_info_nce_by_hand() -> None:
    """Two users whose targets are their own and each other's opposite; lengths don't matter."""
    predicted = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    target = torch.tensor([[5.0, 0.0], [-1.0, 0.0]])
    expected = [math.log(1 + math.exp(-2 / 0.5)), math.log(2)]
    torch.testing.assert_close(info_nce(predicted, target, 0.5), torch.tensor(expected))


def test_info_nce_without_negatives_says_nothing() -> None:
    """One row gives 0, no row gives none; zero vectors give no NaN, nor do their gradients."""
    assert info_nce(torch.ones(1, 3), torch.randn(1, 3), 0.1).tolist() == [0.0]
    assert info_nce(torch.ones(0, 3), torch.ones(0, 3), 0.1).sum() == 0
    zeros = torch.zeros(3, 4, requires_grad=True)
    loss = info_nce(zeros, torch.randn(3, 4), 0.1)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.full((3,), math.log(3)))
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_context_is_the_mean_of_earlier_present_groups() -> None:
    """Later and absent ones aren't in it; who has none is told."""
    slices = torch.tensor([[[2.0], [4.0], [100.0]], [[torch.nan], [6.0], [7.0]], [[1.0], [1.0], [1.0]]])
    present = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])
    known, has_any = context(slices, present, 1)
    assert known.tolist() == [[3.0], [6.0], [0.0]]
    assert has_any.tolist() == [True, True, False]
