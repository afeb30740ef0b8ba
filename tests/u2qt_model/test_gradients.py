"""What comes out is the quantized vector; what goes back differs."""

import torch

from u2qt_model.gradients import rotated, straight_through


def _pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator).requires_grad_(), torch.randn(6, 4, generator=generator)


def test_both_give_the_quantized_vector() -> None:
    """Forward they are the same."""
    latent, quantized = _pair()
    torch.testing.assert_close(straight_through(latent, quantized), quantized)
    torch.testing.assert_close(rotated(latent, quantized), quantized)


def test_straight_through_copies_the_gradient() -> None:
    """As if there were no quantizer."""
    latent, quantized = _pair()
    weights = torch.arange(24.0).view(6, 4)
    (straight_through(latent, quantized) * weights).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(latent.grad, weights)


def test_rotation_turns_the_gradient_with_the_vector() -> None:
    """A gradient along the quantized vector arrives along the latent, scaled by their lengths."""
    latent, quantized = _pair()
    (rotated(latent, quantized) * quantized).sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        lengths = quantized.norm(dim=1, keepdim=True) ** 2 / latent.norm(dim=1, keepdim=True) ** 2
        torch.testing.assert_close(latent.grad, lengths * latent)


def test_zero_and_opposite_vectors_are_finite() -> None:
    """There is no rotation axis to divide by."""
    latent = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    out = rotated(latent, torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, 0.0]]))
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert out.isfinite().all()
    assert latent.grad is not None
    assert latent.grad.isfinite().all()


def test_a_latent_without_length_passes_its_gradient_straight_through() -> None:
    """It has no direction to turn: neither is the value lost nor is the gradient huge."""
    latent = torch.zeros(1, 4, requires_grad=True)
    out = rotated(latent, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(out.detach(), torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, torch.ones(1, 4))
