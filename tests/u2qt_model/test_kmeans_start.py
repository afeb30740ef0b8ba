"""The k-means start of every level and block."""

import pytest
import torch
from torch import Tensor

from u2qt_model.config import QuantizerConfig
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.quantizer import CodebookStack
from u2qt_model.restarts import used_codes


def _randn(rows: int, seed: int, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def _stack(sources: int = 2, **config: object) -> CodebookStack:
    return CodebookStack(sources, 6, QuantizerConfig(**config))  # type: ignore[arg-type]


def _error(stack: CodebookStack, latents: list[Tensor]) -> float:
    left = [x - stack.lookup(stack.encode(x, source), source) for source, x in enumerate(latents)]
    return float(torch.cat(left).square().sum() / torch.cat(latents).square().sum())


def test_absent_source_has_closed_blocks() -> None:
    """The others are started all the same, in both layouts."""
    for layout in ("depth", "width"):
        stack = _stack(layout=layout, shared_levels=1, own_levels=1, codebook_size=4)
        start_codebooks(stack, [_randn(30, 1), _randn(0, 1)], torch.Generator().manual_seed(0))
        assert stack.shared_open.all()
        assert stack.own_open[0].all()
        assert not stack.own_open[1].any()


def test_nothing_at_all_closes_everything() -> None:
    """No sample, no open code, no NaN."""
    stack = _stack(layout="width", shared_levels=2, own_levels=2, codebook_size=4)
    start_codebooks(stack, [_randn(0, 1), _randn(0, 1)], torch.Generator().manual_seed(0))
    assert not stack.shared_open.any() | stack.own_open.any()
    assert stack.encode(_randn(3, 1), 0).tolist() == [[0, 0]] * 3


def test_width_serves_what_is_common_and_what_is_own() -> None:
    """Two sources with common and own clusters: shared beside own beats as many shared codes."""
    common, own = _randn(6, 1) * 5, [_randn(4, 2) * 5, _randn(4, 3) * 5]
    latents = [torch.cat([common, centres])[torch.arange(400) % 10] + 0.01 * _randn(400, 9 + n) for n, centres in enumerate(own)]
    wide = _stack(layout="width", shared_levels=1, own_levels=1, codebook_size=6, own_size=4)
    pooled = _stack(shared_levels=1, own_levels=0, codebook_size=10)
    for stack in (wide, pooled):
        start_codebooks(stack, latents, torch.Generator().manual_seed(0))
    assert _error(wide, latents) < 0.5 * _error(pooled, latents)
    used = used_codes(wide, [wide.encode(x, source) for source, x in enumerate(latents)])
    assert sum(int(mask.sum()) for mask in used) >= 13


def test_seed_decides_the_start() -> None:
    """Whatever the global generator does."""
    found = []
    for seed in (1, 1, 2):
        stack = _stack(shared_levels=1, own_levels=1, codebook_size=8)
        start_codebooks(stack, [_randn(100, 1), _randn(100, 2)], torch.Generator().manual_seed(seed))
        found.append(stack.shared.clone())
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])


@pytest.mark.parametrize("layout", ["depth", "width"])
def test_random_start_is_a_switch(layout: str) -> None:
    """It draws other codewords, and errs more where clusters have very different sizes."""
    centres = _randn(16, 1) * 5
    weights = torch.tensor([2000] + [20] * 15)
    latents = [centres.repeat_interleave(weights, 0) + 0.01 * _randn(2300, 2), centres.repeat_interleave(weights, 0) + 0.01 * _randn(2300, 3)]
    errors = []
    for kind in ("kmeans++", "random"):
        stack = _stack(layout=layout, shared_levels=1, own_levels=1, codebook_size=16, start=kind, kmeans_iterations=2)
        start_codebooks(stack, latents, torch.Generator().manual_seed(0))
        errors.append(_error(stack, latents))
    assert errors[0] <= errors[1]
    assert errors[0] < 0.05
