"""Epochs after the start: steps that lower the error, absent sources, dead codes."""

import pytest
import torch
from torch import Tensor

from u2qt_model.config import QuantizerConfig, SliceEncoderConfig, TokenizerConfig, TrainingConfig
from u2qt_model.refine import Refiner
from u2qt_model.residual_quantizer import ResidualQuantizer

CONFIG = TokenizerConfig(
    encoder=SliceEncoderConfig(code_dim=4, hidden=16),
    quantizer=QuantizerConfig(shared_levels=1, own_levels=1, codebook_size=8, kmeans_iterations=1),
    training=TrainingConfig(learning_rate=3e-3),
)


def _x(seed: int, rows: int = 200) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def _refiner() -> tuple[ResidualQuantizer, Refiner]:
    quantizer = ResidualQuantizer(2, 4, 16, CONFIG.quantizer, torch.Generator().manual_seed(0))
    members = quantizer.codebooks.start([_x(1), _x(2)], torch.Generator().manual_seed(0))
    return quantizer, Refiner(quantizer, members, CONFIG)


def test_steps_lower_the_error() -> None:
    """On the slices they are given."""
    _, refiner = _refiner()
    errors = [refiner.step([_x(1), _x(2)])[0] for _ in range(60)]
    assert sum(errors[-5:]) < 0.95 * sum(errors[:5])


def test_absent_source_stays_as_it_is() -> None:
    """Its networks and own tables don't move, and nothing becomes NaN."""
    quantizer, refiner = _refiner()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    for _ in range(3):
        error, length = refiner.step([_x(1), torch.zeros(0, 4)])
    assert 0 < error < length
    after = quantizer.state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert after["encoders.1._block.0.weight"].equal(before["encoders.1._block.0.weight"])
    assert after["codebooks.own"][1].equal(before["codebooks.own"][1])
    assert not after["codebooks.own"][0].equal(before["codebooks.own"][0])


def test_step_without_slices_is_nothing() -> None:
    """No error, no length, no change."""
    quantizer, refiner = _refiner()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    assert refiner.step([torch.zeros(0, 4), torch.zeros(0, 4)]) == (0.0, 0.0)
    assert all(tensor.equal(before[name]) for name, tensor in quantizer.state_dict().items())


def test_usage_counts_from_the_start_of_the_epoch() -> None:
    """One slice uses two codes, a level each, of three blocks' 24."""
    _, refiner = _refiner()
    assert refiner.usage() == 0
    refiner.step([_x(1, 1), torch.zeros(0, 4)])
    assert refiner.usage() == pytest.approx(2 / 24)
    refiner.step([_x(1), _x(2)])
    assert refiner.usage() > 0.8
    refiner.start_epoch()
    assert refiner.usage() == 0


def test_unused_codes_are_moved_onto_recent_slices() -> None:
    """Every open code that the epoch didn't use; a second restart without a step moves the same ones again."""
    quantizer, refiner = _refiner()
    refiner.step([_x(1, 1), _x(2, 1)])
    opened = int(quantizer.codebooks.shared_open.sum() + quantizer.codebooks.own_open.sum())
    used = round(refiner.usage() * 24)
    assert refiner.restart_dead() == opened - used
    refiner.start_epoch()
    refiner.step([_x(1), _x(2)])
    assert refiner.restart_dead() < opened - used


def test_restart_before_any_step_moves_nothing() -> None:
    """There are no recent slices yet."""
    assert _refiner()[1].restart_dead() == 0
