"""A quantizer measured: chunks don't matter, sources without slices are zeros, the report has every level."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from u2qt_model import evaluation
from u2qt_model.config import QuantizerConfig
from u2qt_model.evaluation import assign, block_reports, errors, level_use, shared_reports, source_reports, total_error
from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.rq_kmeans import RqKmeans
from u2qt_model.source_quantizers import alone


def _x(seed: int, rows: int = 60) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def quantizer() -> RqKmeans:
    """Two sources, one shared level and one of their own, 8 codes."""
    started = RqKmeans(2, 4, QuantizerConfig(kind="rq_kmeans", shared_levels=1, own_levels=1, codebook_size=8))
    start_codebooks(started.codebooks, [_x(1), _x(2)], torch.Generator().manual_seed(0))
    return started


def test_chunks_do_not_change_the_codes(quantizer: RqKmeans, monkeypatch: pytest.MonkeyPatch) -> None:
    """(N, L) per source, in order; (0, L) for a source without slices."""
    whole = assign(quantizer, [_x(1), torch.zeros(0, 4)])
    monkeypatch.setattr(evaluation, "CHUNK", 7)
    parts = assign(quantizer, [_x(1), torch.zeros(0, 4)])
    assert [tuple(codes.shape) for codes in parts] == [(60, 2), (0, 2)]
    assert parts[0].equal(whole[0])


def test_errors_are_per_source_and_level(quantizer: RqKmeans) -> None:
    """Squared error and squared length; both levels err less than one."""
    slices = [_x(1), torch.zeros(0, 4)]
    codes = assign(quantizer, slices)
    (one, length), nothing = errors(quantizer, slices, codes, 1)
    (two, _), _ = errors(quantizer, slices, codes, 2)
    assert 0 < two < one < length == pytest.approx(float(_x(1).double().square().sum()))
    assert nothing == (0.0, 0.0)


def test_total_error_weighs_all_slices(quantizer: RqKmeans) -> None:
    """Between the sources' own errors; 0 where there is nothing."""
    first, second = (total_error(alone(quantizer), [x, y]) for x, y in ((_x(1), _x(2)[:0]), (_x(1)[:0], _x(2))))
    assert min(first, second) <= total_error(alone(quantizer), [_x(1), _x(2)]) <= max(first, second)
    assert total_error(alone(quantizer), [_x(1)[:0], _x(2)[:0]]) == 0


def test_source_report_has_every_level(quantizer: RqKmeans) -> None:
    """Errors of the held-out slices, use by the training sample."""
    reports = source_reports(alone(quantizer), [_x(1), _x(2)[:0]], [_x(3), _x(2)[:0]])
    first, second = reports[0]["relative_squared_error"]
    assert 0 < second < first < 1
    assert [level["usage"] > 0.9 for level in reports[0]["levels"]] == [True, True]
    unused = {"usage": 0.0, "perplexity": 0.0, "dead_codes": 8, "gini": 0.0}
    assert reports[1] == {
        "relative_squared_error": [0.0, 0.0],
        "unique_sequence_rate": 0.0,
        "collision_rate": 0.0,
        "margin_quantiles": [[], []],
        "levels": [{**unused, "codebooks": {name: {"codebook_size": 8, **unused}}} for name in ("shared", "own")],
    }
    assert 0 <= reports[0]["collision_rate"] < 1
    assert all(low <= high for level in reports[0]["margin_quantiles"] for low, high in pairwise(level))


def test_a_level_s_shared_and_own_codes_are_counted_apart() -> None:
    """In width a level has both; own codes follow the shared ones."""
    config = QuantizerConfig(layout="width", codebook_size=4, own_size=2, shared_levels=1, own_levels=1)
    found = level_use(np.array([0, 0, 1, 4]), config, 0)
    assert (found["usage"], found["dead_codes"]) == (0.5, 3)
    assert {name: (use["codebook_size"], use["dead_codes"]) for name, use in found["codebooks"].items()} == {"shared": (4, 2), "own": (2, 1)}


def test_block_report_counts_a_shared_codebook_once(quantizer: RqKmeans) -> None:
    """The shared one by all sources' slices, an own one by its source's."""
    reports = block_reports(alone(quantizer), [_x(1), _x(2)[:0]], ("bill", "app"))
    assert [(report["codebook"], report["level"]) for report in reports] == [("shared", 1), ("bill", 2), ("app", 2)]
    assert [report["dead_codes"] for report in reports[1:]] == [0, 8]


NAMES = ("bill", "app")


def test_shared_codes_are_reported_over_all_their_sources(quantizer: RqKmeans) -> None:
    """A code is dead only where no source has it; error and collisions are those of all slices, and sources never collide."""
    alike, held_out = [_x(1), _x(1)], [_x(3), _x(2)]
    (report,) = shared_reports(alone(quantizer), block_reports(alone(quantizer), alike, NAMES), held_out, NAMES)
    codes = assign(quantizer, alike)
    used = len(set(codes[0][:, 0].tolist()) | set(codes[1][:, 0].tolist()))
    assert (report["sources"], report["level"], report["dead_codes"]) == (["bill", "app"], 1, 8 - used)
    first, second = errors(quantizer, held_out, assign(quantizer, held_out), 1)
    assert report["relative_squared_error"] == pytest.approx((first[0] + second[0]) / (first[1] + second[1]))
    apart = source_reports(alone(quantizer), alike, held_out)
    assert report["unique_sequence_rate"] == pytest.approx(np.mean([source["unique_sequence_rate"] for source in apart]))
    assert report["collision_rate"] == pytest.approx(np.mean([source["collision_rate"] for source in apart]))
    empty = [_x(1)[:0]] * 2
    (nothing,) = shared_reports(alone(quantizer), block_reports(alone(quantizer), empty, NAMES), empty, NAMES)
    assert (nothing["dead_codes"], nothing["relative_squared_error"], nothing["margin_quantiles"]) == (8, 0.0, [])
