"""The learned quantizer: it starts as plain residual k-means, and its loss reaches the networks only."""

import torch
from torch import Tensor

from u2qt_model.config import QuantizerConfig
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.residual_quantizer import ResidualQuantizer
from u2qt_model.rq_kmeans import RqKmeans

CONFIG = QuantizerConfig(shared_levels=1, own_levels=1, codebook_size=8)


def _x(seed: int, rows: int = 60) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def _started(config: QuantizerConfig = CONFIG) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(2, 4, 16, config, torch.Generator().manual_seed(0))
    start_codebooks(quantizer.codebooks, [_x(1), _x(2)], torch.Generator().manual_seed(0))
    return quantizer


def _loss(quantizer: ResidualQuantizer, x: Tensor, source: int) -> tuple[Tensor, Tensor]:
    latent = quantizer.to_latent(x, source)
    codes = quantizer.codebooks.encode(latent.detach(), source)
    return quantizer.loss(x, latent, codes, source), quantizer.codebooks.lookup(codes, source)


def test_start_is_residual_kmeans() -> None:
    """The networks are the identity: same codes and vectors as the baseline with the same tables."""
    learned, plain = _started(), RqKmeans(2, 4, CONFIG)
    plain.codebooks.load_state_dict(learned.codebooks.state_dict())
    codes = learned.encode(_x(3), 0)
    assert codes.equal(plain.encode(_x(3), 0))
    torch.testing.assert_close(learned.reconstruct(codes, 0), plain.reconstruct(codes, 0))


def test_loss_is_reconstruction_and_commitment() -> None:
    """At the start both are the squared error: (1 + beta) times it."""
    quantizer, x = _started(), _x(3)
    loss, quantized = _loss(quantizer, x, 0)
    error = (x - quantized).square().sum()
    torch.testing.assert_close(loss.detach(), 1.25 * error)


def test_gradient_reaches_the_own_networks_only() -> None:
    """Straight through the codes; the other source's networks and the codebooks get none."""
    quantizer = _started()
    _loss(quantizer, _x(3), 0)[0].backward()  # type: ignore[no-untyped-call]
    moved = {name for name, weight in quantizer.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0}
    assert {name.split(".")[0:2][1] for name in moved} == {"0"}
    assert {name.split(".")[0] for name in moved} == {"encoders", "decoders"}
    assert not any(tensor.requires_grad for tensor in quantizer.codebooks.state_dict().values())


def test_commitment_pulls_the_encoder_to_the_codewords() -> None:
    """Gradient steps on a heavy commitment shorten the way from latent to codeword."""
    quantizer = _started(QuantizerConfig(shared_levels=1, own_levels=1, codebook_size=8, commitment=100.0))
    optimizer = torch.optim.AdamW(quantizer.parameters(), lr=1e-2)

    @torch.no_grad()
    def distance() -> float:
        latent = quantizer.to_latent(_x(3), 0)
        codes = quantizer.codebooks.encode(latent, 0)
        return float((latent - quantizer.codebooks.lookup(codes, 0)).square().sum())

    before = distance()
    for _ in range(30):
        optimizer.zero_grad()
        _loss(quantizer, _x(3), 0)[0].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert distance() < 0.7 * before


def test_networks_repeat_for_a_seed() -> None:
    """The first layers are drawn from the generator given, not from the global one."""
    torch.manual_seed(1)
    first = ResidualQuantizer(1, 4, 16, CONFIG, torch.Generator().manual_seed(5)).state_dict()
    torch.manual_seed(2)
    again = ResidualQuantizer(1, 4, 16, CONFIG, torch.Generator().manual_seed(5)).state_dict()
    assert all(again[name].equal(tensor) for name, tensor in first.items())
