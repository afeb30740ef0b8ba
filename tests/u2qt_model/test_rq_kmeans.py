"""The baseline: residual k-means with no network, which gets better with every level and code."""

import pytest
import torch
from torch import Tensor

from u2qt_model.config import QuantizerConfig
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.rq_kmeans import RqKmeans


def _x(seed: int, rows: int = 400) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


def _error(quantizer: RqKmeans, x: Tensor, source: int = 0) -> float:
    codes = quantizer.encode(x, source)
    return float((quantizer.reconstruct(codes, source) - x).square().sum() / x.square().sum())


def _started(shared: int, own: int, size: int, slices: list[Tensor]) -> RqKmeans:
    quantizer = RqKmeans(len(slices), 6, QuantizerConfig(kind="rq_kmeans", shared_levels=shared, own_levels=own, codebook_size=size))
    start_codebooks(quantizer.codebooks, slices, torch.Generator().manual_seed(0))
    return quantizer


def test_it_has_no_network() -> None:
    """Nothing to train after the start."""
    quantizer = RqKmeans(2, 6, QuantizerConfig())
    assert list(quantizer.parameters()) == []
    assert not quantizer.trainable


@pytest.mark.parametrize(("shared", "own"), [(3, 0), (0, 3)])
def test_more_levels_and_more_codes_err_less(shared: int, own: int) -> None:
    """Pooled and per source."""
    slices = [_x(1), _x(2) + 2]
    first = _error(_started(min(shared, 1), min(own, 1), 16, slices), slices[0])
    assert first < 1
    assert _error(_started(shared, own, 16, slices), slices[0]) < first
    assert _error(_started(shared, own, 64, slices), slices[0]) < _error(_started(shared, own, 16, slices), slices[0])


def test_enough_codes_are_exact() -> None:
    """As many codes as distinct slices."""
    x = _x(1, 5).repeat(10, 1)
    assert _error(_started(0, 1, 8, [x]), x) < 1e-10


def test_own_tables_serve_different_sources_better() -> None:
    """Two sources far apart: per source beats pooled at the same number of codes a slice can reach."""
    slices = [_x(1) * 0.1 + 5, _x(2) * 0.1 - 5]
    assert _error(_started(0, 1, 8, slices), slices[0]) < _error(_started(1, 0, 8, slices), slices[0])
