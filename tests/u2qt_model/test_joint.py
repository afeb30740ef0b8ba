"""Joint least squares over the codewords of all levels, against a dense solution; rounds that lower the error."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from u2qt_model.config import QuantizerConfig
from u2qt_model.joint import PULL, NormalEquations, refine_jointly
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.quantizer import CodebookStack
from u2qt_model.restarts import used_codes

LAYOUTS = {
    "depth": QuantizerConfig(shared_levels=1, own_levels=2, codebook_size=4, joint_rounds=5),
    "width": QuantizerConfig(layout="width", shared_levels=2, own_levels=2, codebook_size=4, own_size=3, joint_rounds=5),
    "shared": QuantizerConfig(shared_levels=3, own_levels=0, codebook_size=4, joint_rounds=5),
    "own": QuantizerConfig(shared_levels=0, own_levels=3, codebook_size=4, joint_rounds=5),
}


def _latents() -> list[Tensor]:
    return [torch.randn(rows, 5, generator=torch.Generator().manual_seed(rows)) for rows in (120, 90)]


def _started(config: QuantizerConfig) -> CodebookStack:
    stack = CodebookStack(2, 5, config)
    start_codebooks(stack, _latents(), torch.Generator().manual_seed(0))
    return stack


def _error(stack: CodebookStack) -> float:
    return float(sum((x - stack.lookup(stack.encode(x, source), source)).square().sum() for source, x in enumerate(_latents())))


def _dense(stack: CodebookStack, codes: list[Tensor]) -> list[Tensor]:
    """The same least squares with one column per codeword of every block."""
    blocks = stack.blocks()
    firsts = torch.cumsum(torch.tensor([0] + [block.size for block in blocks]), 0)
    rows = []
    for source, given in enumerate(codes):
        design = torch.zeros(len(given), int(firsts[-1]), dtype=torch.float64)
        for first, block in zip(firsts, blocks, strict=False):
            own = given[:, block.level] - block.first
            mine = (own >= 0) & (own < block.size) & (source in block.sources(2))
            design[torch.nonzero(mine).flatten(), first + own[mine]] = 1
        rows.append(design)
    design, x = torch.cat(rows), torch.cat(_latents()).double()
    before = torch.cat([stack.block(block)[0] for block in blocks]).double()
    solved = torch.linalg.solve(design.T @ design + PULL * torch.eye(len(before)), design.T @ x + PULL * before)
    return [solved[first : first + block.size].float() for first, block in zip(firsts, blocks, strict=False)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrow_solution_is_the_dense_one(layout: str) -> None:
    """Block by block, added in parts."""
    stack = _started(LAYOUTS[layout])
    codes = [stack.encode(x, source) for source, x in enumerate(_latents())]
    expected = _dense(stack, codes)
    equations = NormalEquations(stack)
    for source, x in enumerate(_latents()):
        for part in (slice(0, 50), slice(50, None)):
            equations.add(x[part], codes[source][part], source)
    equations.solve()
    for block, wanted in zip(stack.blocks(), expected, strict=True):
        torch.testing.assert_close(stack.block(block)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_levels_alone_leave_the_others(layout: str) -> None:
    """Codes of fewer levels move only those levels' codewords."""
    stack = _started(LAYOUTS[layout])
    before = {block: stack.block(block)[0].clone() for block in stack.blocks()}
    equations = NormalEquations(stack)
    equations.add(2 * _latents()[0], stack.encode(_latents()[0], 0, levels=1), 0)
    equations.solve()
    moved = {(block.level, block.source) for block, codewords in before.items() if not torch.allclose(codewords, stack.block(block)[0], atol=1e-6)}
    assert moved
    assert moved <= {(0, None), (0, 0)}


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rounds_lower_the_error(layout: str, beam: int) -> None:
    """Of the sample they are made on; the best round is kept."""
    config = replace(LAYOUTS[layout], beam=beam)
    stack = _started(config)
    errors = refine_jointly(stack, _latents(), lambda: _error(stack))
    assert len(errors) == 6
    assert min(errors) < 0.99 * errors[0]
    assert _error(stack) == pytest.approx(min(errors))


def test_rounds_that_only_hurt_keep_the_start() -> None:
    """What `measure` says decides."""
    stack = _started(LAYOUTS["depth"])
    before = stack.shared.clone()
    rising = iter(range(100))
    assert refine_jointly(stack, _latents(), lambda: float(next(rising))) == [0, 1, 2, 3, 4, 5]
    assert stack.shared.equal(before)


def test_absent_source_is_left_alone() -> None:
    """Its blocks stay closed and zero, nothing becomes NaN."""
    stack = CodebookStack(2, 5, LAYOUTS["width"])
    latents = [_latents()[0], torch.zeros(0, 5)]
    start_codebooks(stack, latents, torch.Generator().manual_seed(0))
    refine_jointly(stack, latents, lambda: 0.0)
    assert all(tensor.isfinite().all() for tensor in stack.state_dict().values())
    assert stack.own[1].abs().sum() == 0


def _with_dead_code(config: QuantizerConfig) -> CodebookStack:
    """One codeword of the second source's own block of the last level lies where no slice is."""
    stack = _started(replace(config, joint_rounds=0))
    stack.own[1, -1, 0] = 1e3
    return stack


def _unused(stack: CodebookStack) -> int:
    codes = [stack.encode(x, source) for source, x in enumerate(_latents())]
    return sum(int((~used).sum()) for used in used_codes(stack, codes))


@pytest.mark.parametrize("layout", ["depth", "width", "own"])
def test_a_code_that_the_kept_round_left_unused_is_put_to_use(layout: str) -> None:
    """After the last round, where the error is no higher for it."""
    stack = _with_dead_code(LAYOUTS[layout])
    assert _unused(stack) == 1
    before, found = _error(stack), refine_jointly(stack, _latents(), lambda: _error(stack))
    assert len(found) > 1
    assert _unused(stack) == 0
    assert _error(stack) <= before


def test_an_unused_code_stays_where_using_it_costs_error_or_restarts_are_off() -> None:
    """What `measure` says decides; the switch too."""
    for change, measures in ((True, iter((1.0, 2.0))), (False, iter((1.0,)))):
        stack = _with_dead_code(replace(LAYOUTS["width"], restart_dead=change))
        before = stack.own.clone()
        refine_jointly(stack, _latents(), lambda: next(measures))  # noqa: B023
        assert stack.own.equal(before)
