"""The codebook stack that both quantizers share: greedy levels, shared and own tables, its k-means start."""

from itertools import pairwise

import torch

from u2qt_model.config import QuantizerConfig
from u2qt_model.quantizer import CodebookStack, Quantizer


def _stack(shared: int, own: int, sources: int = 2, size: int = 4, dim: int = 3) -> CodebookStack:
    return CodebookStack(sources, dim, QuantizerConfig(shared_levels=shared, own_levels=own, codebook_size=size, kmeans_iterations=4))


def _sample(rows: int, seed: int, dim: int = 3) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def _started(shared: int, own: int) -> tuple[CodebookStack, list[torch.Tensor]]:
    stack, latents = _stack(shared, own), [_sample(100, 1), _sample(80, 2) + 1]
    stack.start(latents, torch.Generator().manual_seed(0))
    return stack, latents


def test_blocks_name_every_table_once() -> None:
    """Shared levels once for all sources, then own levels source by source."""
    assert _stack(1, 2).blocks() == [(0, [0, 1]), (1, [0]), (1, [1]), (2, [0]), (2, [1])]
    assert _stack(2, 0).blocks() == [(0, [0, 1]), (1, [0, 1])]
    assert _stack(0, 1).blocks() == [(0, [0]), (0, [1])]


def test_shared_tables_are_one_and_own_tables_are_two() -> None:
    """Tables are views: what is written into one source's shared level is the other's too."""
    stack = _stack(1, 1)
    stack.table(0, 0)[0][2] = 7.0
    stack.table(0, 1)[0][2] = 9.0
    assert (stack.table(1, 0)[0][2] == 7.0).all()
    assert (stack.table(1, 1)[0][2] == 0.0).all()


def test_levels_quantize_what_is_left() -> None:
    """Literal codewords: residual after residual, and the sum of the chosen ones."""
    stack = _stack(1, 1, sources=1, size=2, dim=1)
    stack.shared[0], stack.own[0, 0] = torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [1.0]])
    stack.shared_open[:], stack.own_open[:] = True, True
    found = stack.quantize(torch.tensor([[9.5], [0.8]]), 0, margins=True)
    assert found.codes.tolist() == [[1, 0], [0, 1]]
    assert [residual.flatten().tolist() for residual in found.residuals] == [[9.5, torch.tensor(0.8).item()], [-0.5, torch.tensor(0.8).item()]]
    torch.testing.assert_close(found.quantized, torch.tensor([[9.0], [1.0]]))
    assert found.margins is not None
    torch.testing.assert_close(found.margins, torch.tensor([[9.5**2 - 0.5**2, 1.5**2 - 0.5**2], [9.2**2 - 0.8**2, 1.8**2 - 0.2**2]]))


def test_lookup_is_the_sum_that_quantize_found() -> None:
    """Codes back to vectors, also after some of the levels only."""
    stack, latents = _started(1, 2)
    found = stack.quantize(latents[1], 1)
    torch.testing.assert_close(stack.lookup(found.codes, 1), found.quantized)
    torch.testing.assert_close(stack.lookup(found.codes[:, :1], 1), latents[1] - found.residuals[1])


def test_each_level_leaves_less() -> None:
    """Mean residual length falls for both sources."""
    stack, latents = _started(2, 2)
    for source, latent in enumerate(latents):
        lengths = [residual.square().sum() for residual in stack.quantize(latent, source).residuals]
        assert all(after < before for before, after in pairwise(lengths))


def test_start_gives_each_block_its_members() -> None:
    """A shared block counts all sources' rows, an own block its source's; a source without rows has closed tables."""
    stack = _stack(1, 1)
    members = stack.start([_sample(30, 1), torch.zeros(0, 3)], torch.Generator().manual_seed(0))
    assert [int(counts.sum()) for counts in members] == [30, 30, 0]
    assert not stack.own_open[1].any()


def test_closed_tables_give_no_nan() -> None:
    """A source that has no open code gets code 0 with margin 0."""
    found = _stack(1, 1).quantize(_sample(3, 1), 0, margins=True)
    assert found.margins is not None
    assert (found.codes.abs().sum(), found.margins.abs().sum()) == (0, 0)
    assert found.quantized.isfinite().all()


def test_plain_quantizer_is_its_codebooks() -> None:
    """No network on either side."""
    quantizer = Quantizer(2, 3, QuantizerConfig(shared_levels=1, own_levels=1, codebook_size=4))
    quantizer.codebooks.start([_sample(50, 1), _sample(50, 2)], torch.Generator().manual_seed(0))
    x = _sample(10, 3)
    found = quantizer.quantize(x, 1)
    assert found.codes.equal(quantizer.codebooks.quantize(x, 1).codes)
    torch.testing.assert_close(quantizer.reconstruct(found.codes, 1), found.quantized)
    assert not quantizer.trainable
