"""The codebooks that all quantizers share: levels, shared and own blocks, residuals, margins; layouts depth and width."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from u2qt_model.blocks import Block
from u2qt_model.config import QuantizerConfig
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.quantizer import CodebookStack, Quantizer

WIDTH = {"layout": "width", "shared_levels": 2, "own_levels": 2, "codebook_size": 4, "own_size": 3}


def _stack(shared: int, own: int, sources: int = 2, size: int = 4, dim: int = 3) -> CodebookStack:
    return CodebookStack(sources, dim, QuantizerConfig(shared_levels=shared, own_levels=own, codebook_size=size, kmeans_iterations=4))


def _wide() -> CodebookStack:
    return CodebookStack(2, 3, QuantizerConfig(**WIDTH))  # type: ignore[arg-type]


def _sample(rows: int, seed: int, dim: int = 3) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def _started(stack: CodebookStack) -> tuple[CodebookStack, list[Tensor]]:
    latents = [_sample(100, 1), _sample(80, 2) + 1]
    start_codebooks(stack, latents, torch.Generator().manual_seed(0))
    return stack, latents


def _named(blocks: list[Block]) -> list[tuple[int, int | None, int, int]]:
    return [(block.level, block.source, block.first, block.size) for block in blocks]


def test_blocks_name_every_codebook_once() -> None:
    """Shared ones by level, then own ones level by level; in width own codes follow the shared ones."""
    assert _named(_stack(1, 1).blocks()) == [(0, None, 0, 4), (1, 0, 0, 4), (1, 1, 0, 4)]
    assert _named(_stack(2, 0).blocks()) == [(0, None, 0, 4), (1, None, 0, 4)]
    assert _named(_stack(0, 1).blocks()) == [(0, 0, 0, 4), (0, 1, 0, 4)]
    assert _named(_wide().blocks()) == [(0, None, 0, 4), (1, None, 0, 4), *((level, source, 4, 3) for level in (0, 1) for source in (0, 1))]


def test_shared_blocks_are_one_and_own_blocks_are_two() -> None:
    """What is written into a block is in the tables of the sources that may use it."""
    for stack, own_code in ((_stack(1, 1), 2), (_wide(), 4 + 2)):
        shared, _, own = (stack.blocks()[i] for i in (0, 1, -1))
        stack.block(shared)[0][2] = 7.0
        stack.block(own)[0][2] = 9.0
        assert all((stack.table(source, 0)[0][2] == 7.0).all() for source in (0, 1))
        assert (stack.table(1, own.level)[0][own_code] == 9.0).all()
        assert not (stack.table(0, own.level)[0] == 9.0).any()


def test_levels_quantize_what_is_left() -> None:
    """Literal codewords: residual after residual, and the sum of the chosen ones."""
    stack = _stack(1, 1, sources=1, size=2, dim=1)
    stack.shared[0], stack.own[0, 0] = torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [1.0]])
    stack.shared_open[:], stack.own_open[:] = True, True
    x = torch.tensor([[9.5], [0.8]])
    codes = stack.encode(x, 0)
    assert codes.tolist() == [[1, 0], [0, 1]]
    residuals = [residual.flatten() for residual in stack.residuals(x, codes, 0)]
    torch.testing.assert_close(residuals, [torch.tensor(pair) for pair in ([9.5, 0.8], [-0.5, 0.8], [0.5, -0.2])])
    torch.testing.assert_close(stack.lookup(codes, 0), torch.tensor([[9.0], [1.0]]))
    margins = stack.margins(x, codes, 0)
    torch.testing.assert_close(margins, torch.tensor([[9.5**2 - 0.5**2, 1.5**2 - 0.5**2], [9.2**2 - 0.8**2, 1.8**2 - 0.2**2]]))


@pytest.mark.parametrize("stack", [_stack(1, 2), _wide()], ids=["depth", "width"])
def test_lookup_is_what_the_levels_took(stack: CodebookStack) -> None:
    """Codes back to vectors, also after some of the levels only."""
    stack, latents = _started(stack)
    codes = stack.encode(latents[1], 1)
    *_, left = stack.residuals(latents[1], codes, 1)
    torch.testing.assert_close(stack.lookup(codes, 1), latents[1] - left)
    _, after_one, *_ = stack.residuals(latents[1], codes, 1)
    torch.testing.assert_close(stack.lookup(codes[:, :1], 1), latents[1] - after_one)
    assert stack.encode(latents[1], 1, levels=1).equal(codes[:, :1])


@pytest.mark.parametrize("stack", [_stack(2, 2), _wide()], ids=["depth", "width"])
def test_each_level_leaves_less(stack: CodebookStack) -> None:
    """Mean residual length falls for both sources."""
    stack, latents = _started(stack)
    for source, latent in enumerate(latents):
        lengths = [residual.square().sum() for residual in stack.residuals(latent, stack.encode(latent, source), source)]
        assert all(after < before for before, after in pairwise(lengths))


def test_closed_tables_give_no_nan() -> None:
    """A source that has no open code gets code 0 with margin 0, whatever the beam."""
    for beam in (1, 3):
        stack = CodebookStack(2, 3, QuantizerConfig(shared_levels=1, own_levels=1, codebook_size=4, beam=beam))
        codes = stack.encode(_sample(3, 1), 0)
        margins = stack.margins(_sample(3, 1), codes, 0)
        assert margins.abs().sum() == 0
        assert stack.lookup(codes, 0).isfinite().all()
        if beam == 1:
            assert codes.abs().sum() == 0


def test_plain_quantizer_is_its_codebooks() -> None:
    """No network on either side."""
    quantizer = Quantizer(2, 3, QuantizerConfig(shared_levels=1, own_levels=1, codebook_size=4))
    start_codebooks(quantizer.codebooks, [_sample(50, 1), _sample(50, 2)], torch.Generator().manual_seed(0))
    x = _sample(10, 3)
    codes = quantizer.encode(x, 1)
    assert codes.equal(quantizer.codebooks.encode(x, 1))
    assert quantizer.margins(x, codes, 1).equal(quantizer.codebooks.margins(x, codes, 1))
    torch.testing.assert_close(quantizer.reconstruct(codes, 1), quantizer.codebooks.lookup(codes, 1))
    assert not quantizer.trainable


def test_codes_and_lookup_stay_on_the_device() -> None:
    """On a device that holds no numbers: a tensor of the CPU among its own would be refused."""
    stack = CodebookStack(2, 3, QuantizerConfig(layout="width", shared_levels=2, own_levels=2, codebook_size=4)).to("meta")
    codes = stack.encode(torch.zeros(5, 3, device="meta"), 1)
    assert codes.shape == (5, 2)
    assert stack.lookup(codes, 1).device.type == "meta"
