"""Dead codes move onto the worst reconstructed slices, on every level and in every block."""

import torch
from torch import Tensor

from u2qt_model.config import QuantizerConfig
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.quantizer import CodebookStack
from u2qt_model.restarts import restart_dead, used_codes


def _x(seed: int, rows: int = 200) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def _started(layout: str) -> CodebookStack:
    stack = CodebookStack(2, 4, QuantizerConfig(layout=layout, shared_levels=1, own_levels=1, codebook_size=8))
    start_codebooks(stack, [_x(1), _x(2)], torch.Generator().manual_seed(0))
    return stack


def test_used_codes_are_those_that_occur() -> None:
    """Per block, in its own numbering; a level that the codes lack uses nothing."""
    depth, width = _started("depth"), _started("width")
    codes = [torch.tensor([[1, 2], [1, 3]]), torch.tensor([[7, 0]])]
    assert [mask.nonzero().flatten().tolist() for mask in used_codes(depth, codes)] == [[1, 7], [2, 3], [0]]
    assert [mask.nonzero().flatten().tolist() for mask in used_codes(depth, [c[:, :1] for c in codes])] == [[1, 7], [], []]
    wide = [torch.tensor([[1], [9]]), torch.tensor([[15]])]
    assert [mask.nonzero().flatten().tolist() for mask in used_codes(width, wide)] == [[1], [1], [7]]


def test_a_wholly_dead_block_comes_back() -> None:
    """Codewords far away from everything, one block at a time: afterwards they are in use and the error is lower."""
    for layout in ("depth", "width"):
        for index in range(3):
            stack = _started(layout)
            block = stack.blocks()[index]
            stack.block(block)[0].fill_(1e3)
            latents = [_x(1), _x(2)]
            codes = [stack.encode(x, source) for source, x in enumerate(latents)]
            # a dead level cannot be avoided in depth: its slices are given a far code, so say what is unused
            used = used_codes(stack, codes)
            used[index][:] = False
            before = sum(float((x - stack.lookup(c, s)).square().sum()) for s, (x, c) in enumerate(zip(latents, codes, strict=True)))
            assert len(restart_dead(stack, latents, codes, used)[index]) == block.size
            again = [stack.encode(x, source) for source, x in enumerate(latents)]
            assert used_codes(stack, again)[index].float().mean() > 0.8
            after = sum(float((x - stack.lookup(c, s)).square().sum()) for s, (x, c) in enumerate(zip(latents, again, strict=True)))
            assert after < before


def test_nothing_dead_or_nowhere_to_go_moves_nothing() -> None:
    """All used; no slices; slices that are exact."""
    stack, latents = _started("depth"), [_x(1), _x(2)]
    before = {name: tensor.clone() for name, tensor in stack.state_dict().items()}
    codes = [stack.encode(x, source) for source, x in enumerate(latents)]
    everything = [torch.ones(block.size, dtype=torch.bool) for block in stack.blocks()]
    assert sum(map(len, restart_dead(stack, latents, codes, everything))) == 0
    nothing = [~mask for mask in everything]
    assert sum(map(len, restart_dead(stack, [x[:0] for x in latents], [c[:0] for c in codes], nothing))) == 0
    exact = [stack.lookup(c, source) for source, c in enumerate(codes)]
    assert sum(map(len, restart_dead(stack, exact, codes, nothing))) == 0
    assert all(tensor.equal(before[name]) for name, tensor in stack.state_dict().items())
