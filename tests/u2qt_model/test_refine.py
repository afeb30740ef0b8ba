"""Epochs after the start: steps that lower the error, absent sources, dead codes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from u2qt_model.config import QuantizerConfig, SliceEncoderConfig, TokenizerConfig, TrainingConfig
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.refine import Refiner
from u2qt_model.residual_quantizer import ResidualQuantizer

CONFIG = TokenizerConfig(
    encoder=SliceEncoderConfig(code_dim=4, hidden=16),
    quantizer=QuantizerConfig(shared_levels=1, own_levels=1, codebook_size=8, kmeans_iterations=1),
    training=TrainingConfig(learning_rate=3e-3),
)


def _x(seed: int, rows: int = 200) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def _refiner(hidden: int = 16, **switches: object) -> tuple[ResidualQuantizer, Refiner]:
    config = replace(CONFIG, quantizer=replace(CONFIG.quantizer, **switches))  # type: ignore[arg-type]
    quantizer = ResidualQuantizer(2, 4, hidden, config.quantizer, torch.Generator().manual_seed(0))
    start_codebooks(quantizer.codebooks, [_x(1), _x(2)], torch.Generator().manual_seed(0))
    return quantizer, Refiner(quantizer, [_x(1), _x(2)], config)


def _epochs(refiner: Refiner, number: int) -> list[float]:
    errors = []
    for epoch in range(1, number + 1):
        refiner.start_epoch(epoch)
        errors += [refiner.step([_x(1), _x(2)])[0] for _ in range(10)]
        refiner.finish_epoch()
    refiner.close()
    return errors


SWITCHES = {
    "as published": {},
    "averages": {"codebooks": "ema"},
    "gradients": {"codebooks": "gradient"},
    "averages, straight through": {"gradient": "straight_through", "codebooks": "ema"},
    "straight through": {"gradient": "straight_through"},
    "balanced": {"balance": 0.05, "codebooks": "ema"},
    "width": {"layout": "width", "codebooks": "ema"},
    "width, joint": {"layout": "width"},
    "width, balanced": {"layout": "width", "balance": 0.05, "codebooks": "ema"},
    "beam": {"beam": 3},
    "no restarts": {"restart_dead": False},
    "warm-up": {"warm_up_epochs": 2, "codebooks": "ema"},
}


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("hidden", [0, 16])
def test_every_switch_lowers_the_error(name: str, hidden: int) -> None:
    """Of some step, on the slices it is given; nothing requires gradients afterwards, nothing is NaN."""
    quantizer, refiner = _refiner(hidden, **SWITCHES[name])
    errors = _epochs(refiner, 6)
    assert min(errors) < errors[0]
    assert all(tensor.isfinite().all() for tensor in quantizer.state_dict().values())
    assert not any(tensor.requires_grad for tensor in quantizer.codebooks.state_dict().values())


def test_warm_up_lets_levels_join() -> None:
    """Two levels and one epoch of warm-up: the second level's codes move from the second epoch on."""
    quantizer, refiner = _refiner(warm_up_epochs=1)
    own, shared = quantizer.codebooks.own.clone(), quantizer.codebooks.shared.clone()
    refiner.step([_x(1), _x(2)])
    refiner.finish_epoch()
    assert quantizer.codebooks.own.equal(own)
    assert not quantizer.codebooks.shared.equal(shared)
    refiner.start_epoch(2)
    refiner.step([_x(1), _x(2)])
    refiner.finish_epoch()
    assert not quantizer.codebooks.own.equal(own)


def test_batch_of_one_slice_trains() -> None:
    """Whatever the switches."""
    for switches in SWITCHES.values():
        quantizer, refiner = _refiner(**switches)
        for epoch in (1, 2):
            refiner.start_epoch(epoch)
            refiner.step([_x(5, 1), torch.zeros(0, 4)])
            refiner.finish_epoch()
        assert all(tensor.isfinite().all() for tensor in quantizer.state_dict().values())


@pytest.mark.parametrize("name", SWITCHES)
def test_more_codes_than_slices_train(name: str) -> None:
    """512 codes of a block, 400 slices: codes that the start left closed stay so, whatever the switch; nothing is NaN."""
    quantizer, refiner = _refiner(codebook_size=512, **SWITCHES[name])
    blocks = quantizer.codebooks.blocks()
    before = [quantizer.codebooks.block(block)[1].clone() for block in blocks]
    errors = _epochs(refiner, 3)
    assert not torch.tensor(errors).isnan().any()
    assert all(tensor.isfinite().all() for tensor in quantizer.state_dict().values())
    for block, is_open in zip(blocks, before, strict=True):
        assert not is_open.all()
        assert quantizer.codebooks.block(block)[1].equal(is_open)


def test_absent_source_stays_as_it_is() -> None:
    """Its networks and own tables don't move, and nothing becomes NaN."""
    quantizer, refiner = _refiner(codebooks="ema")
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
    assert refiner.usage() == (0, 24)
    refiner.step([_x(1, 1), torch.zeros(0, 4)])
    assert refiner.usage() == (2, 24)
    refiner.step([_x(1), _x(2)])
    assert refiner.usage()[0] > 0.8 * 24
    refiner.start_epoch(2)
    assert refiner.usage() == (0, 24)


def test_a_source_that_the_last_step_lacks_has_its_unused_codes_moved_too() -> None:
    """Onto the slices of its own last step."""
    quantizer, refiner = _refiner(codebooks="ema")
    quantizer.codebooks.own[1, :, 4:] = 1e3
    refiner.step([_x(1), _x(2)])
    refiner.step([_x(1), _x(2)[:0]])
    refiner.finish_epoch()
    assert float(quantizer.codebooks.own[1].abs().max()) < 1e3


def test_unused_codes_are_moved_at_the_end_of_an_epoch() -> None:
    """Onto recent slices, so that the next epoch uses more."""
    quantizer, refiner = _refiner(codebooks="ema")
    quantizer.codebooks.shared[0, 4:] = 1e3
    refiner.step([_x(1), _x(2)])
    used = refiner.usage()
    refiner.finish_epoch()
    refiner.start_epoch(2)
    refiner.step([_x(1), _x(2)])
    assert used[0] < 21 < refiner.usage()[0]
