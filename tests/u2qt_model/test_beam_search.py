"""The one search: a greedy beam of 1, the best sequences of a wider one, and their selection."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from u2qt_model import beam_search as module
from u2qt_model.beam_search import Table, beam_search, least, prepared


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _tables(sizes: tuple[int, ...], dim: int = 4, seed: int = 1) -> tuple[Table, ...]:
    return prepared([(_randn(size, dim, seed=seed + n) / (n + 1), torch.ones(size, dtype=torch.bool)) for n, size in enumerate(sizes)], crossings=True)


def _errors(x: Tensor, codes: Tensor, tables: tuple[Table, ...]) -> Tensor:
    return (x - sum(table.codewords[codes[:, n]] for n, table in enumerate(tables))).square().sum(dim=1)


def test_both_ways_of_scoring_are_one_search() -> None:
    """A beam of 1, scored over whole sequences, finds what greedy finds over residuals."""
    x, tables = _randn(3000, 16), _tables((32, 64, 40), dim=16)
    greedy, whole = beam_search(x, tables, 1), torch.cat([module._beam(part, tables, 1) for part in x.split(100)])
    same = (greedy == whole).all(dim=1)
    assert same.float().mean() > 0.999  # the rest are ties but for rounding
    torch.testing.assert_close(_errors(x, whole, tables), _errors(x, greedy, tables), rtol=1e-4, atol=1e-4)


def test_closed_codes_are_never_given() -> None:
    """While another is open, whatever the beam."""
    is_open = torch.tensor([True, False, True, False])
    tables = prepared([(_randn(4, 3, seed=n), is_open) for n in (1, 2)], crossings=True)
    for beam in (1, 2, 9):
        assert set(beam_search(_randn(200, 3), tables, beam).unique().tolist()) <= {0, 2}


def test_beam_as_wide_as_all_sequences_is_exact() -> None:
    """Against every sequence there is."""
    x, tables = _randn(50, 4), _tables((3, 4, 2))
    found = _errors(x, beam_search(x, tables, 12), tables)
    every = torch.stack([_errors(x, torch.tensor(codes).expand(50, -1), tables) for codes in product(range(3), range(4), range(2))])
    torch.testing.assert_close(found, every.amin(dim=0))


def test_wider_beams_err_less() -> None:
    """In the mean, over tables of more than one group of codes."""
    x, tables = _randn(500, 8), _tables((64, 96, 64), dim=8)
    means = [float(_errors(x, beam_search(x, tables, beam), tables).mean()) for beam in (1, 2, 4, 16)]
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.97 * means[0]


@settings(max_examples=30)
@given(rows=st.integers(0, 40), chunk=st.integers(1, 50), beam=st.sampled_from([1, 3]), seed=st.integers(0, 2**31))
def test_each_row_has_the_codes_of_its_own_vector(rows: int, chunk: int, beam: int, seed: int) -> None:
    """Order doesn't matter; well separated sequences don't depend on the chunk."""
    x, tables = torch.round(_randn(rows, 4, seed=seed) * 8), _tables((40, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GREEDY_ROWS", chunk)
        patch.setattr(module, "BEAM_ROWS", chunk)
        codes = beam_search(x, tables, beam)
    order = torch.randperm(rows)
    torch.testing.assert_close(_errors(x[order], beam_search(x[order], tables, beam), tables), _errors(x, codes, tables)[order])


@pytest.mark.parametrize("size", [2, 17, 64, 256, 1000, 2048])
def test_greedy_takes_the_lowest_code_on_ties(size: int) -> None:
    """Equal codewords; closed ones don't count."""
    is_open = torch.ones(size, dtype=torch.bool)
    assert (beam_search(_randn(64, 8), prepared([(torch.ones(size, 8), is_open)], crossings=False), 1) == 0).all()
    is_open[0] = False
    assert (beam_search(_randn(64, 8), prepared([(torch.ones(size, 8), is_open)], crossings=False), 1) == 1).all()


@settings(max_examples=60)
@given(rows=st.integers(1, 5), width=st.sampled_from([1, 5, 32, 64, 256, 1024]), number=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_least_are_the_least(rows: int, width: int, number: int, seed: int) -> None:
    """Values and places agree with sorting, with infinities among them."""
    values = _randn(rows, width, seed=seed)
    values[values > 1] = torch.inf
    found, places = least(values, number)
    torch.testing.assert_close(found.sort(dim=1).values, values.sort(dim=1).values[:, :number])
    torch.testing.assert_close(values.gather(1, places), found)
    assert all(len(set(row.tolist())) == len(row) for row in places)


@pytest.mark.parametrize("beam", [1, 3])
def test_the_search_stays_on_the_latents_device(beam: int) -> None:
    """On a device that holds no numbers: a tensor of the CPU among its own would be refused."""
    levels = [(_randn(size, 4).to("meta"), torch.ones(size, dtype=torch.bool, device="meta")) for size in (5, 6)]
    assert beam_search(_randn(7, 4).to("meta"), prepared(levels, crossings=True), beam).device.type == "meta"
