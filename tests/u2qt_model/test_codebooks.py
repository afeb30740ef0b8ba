"""One codebook: its start, its nearest code, its moving average and its restarts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from u2qt_model.codebooks import MovingCodebook, first_codewords, kmeans, nearest, scores, totals


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _clusters(centres: Tensor, each: int, spread: float = 0.01) -> Tensor:
    return centres.repeat_interleave(each, 0) + spread * torch.randn(len(centres) * each, centres.shape[1], generator=_generator(9))


def test_scores_order_like_distances() -> None:
    """Twice the score plus |x|^2 is the squared distance; closed codes are infinitely far."""
    x, codewords = torch.randn(5, 3, generator=_generator()), torch.randn(4, 3, generator=_generator(1))
    found = scores(x, codewords, torch.tensor([True, True, False, True]))
    distances = torch.cdist(x, codewords).square()
    torch.testing.assert_close((2 * found + x.square().sum(dim=1, keepdim=True))[:, [0, 1, 3]], distances[:, [0, 1, 3]])
    assert found[:, 2].isinf().all()


@pytest.mark.parametrize("size", [2, 3, 17, 32, 33, 100])
def test_lowest_code_wins_a_tie(size: int) -> None:
    """Equal codewords at any place of any number of them; closed ones don't count."""
    x = torch.randn(64, 8, generator=_generator())
    codewords, is_open = torch.ones(size, 8), torch.ones(size, dtype=torch.bool)
    assert (nearest(x, codewords, is_open)[0] == 0).all()
    is_open[0] = False
    codes, distances = nearest(x, codewords, is_open)
    assert (codes == 1).all()
    torch.testing.assert_close(distances, (x - 1).square().sum(dim=1))


@settings(max_examples=20)
@given(rows=st.integers(1, 60), distinct=st.integers(1, 12), size=st.integers(2, 16), seed=st.integers(0, 2**32))
def test_every_open_code_has_a_member(rows: int, distinct: int, size: int, seed: int) -> None:
    """For any number of rows, distinct rows and codes: finite, members add up, no more open codes than distinct rows."""
    kinds = torch.randn(distinct, 4, generator=_generator(seed))
    x = kinds[torch.randint(distinct, (rows,), generator=_generator(seed + 1))]
    codewords, is_open, members = kmeans(x, size, 5, _generator(seed))
    assert codewords.isfinite().all()
    assert members.sum() == rows
    torch.testing.assert_close(is_open, members > 0)
    assert int(is_open.sum()) <= min(size, len(x.unique(dim=0)))


def test_kmeans_finds_separate_clusters() -> None:
    """As many codes as clusters: each is a centre."""
    centres = torch.eye(6) * 5
    codewords, is_open, members = kmeans(_clusters(centres, 20), 6, 10, _generator())
    assert is_open.all()
    assert members.tolist() == [20.0] * 6
    assert torch.cdist(centres, codewords).min(dim=1).values.max() < 0.05


def test_kmeans_of_nothing_is_closed() -> None:
    """No rows, no open code, no error."""
    codewords, is_open, members = kmeans(torch.zeros(0, 3), 4, 5, _generator())
    assert (codewords.abs().sum(), is_open.sum(), members.sum()) == (0, 0, 0)


def test_kmeans_repeats_for_a_seed() -> None:
    """And differs for another."""
    x = torch.randn(200, 4, generator=_generator())
    first, again, other = (kmeans(x, 8, 3, _generator(seed))[0] for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


def test_start_takes_rows_far_apart() -> None:
    """k-means++ finds the one far row of thirty."""
    x = torch.cat([0.01 * torch.randn(29, 2, generator=_generator()), torch.tensor([[50.0, 50.0]])])
    for seed in range(5):
        codewords, is_open = first_codewords(x, 2, _generator(seed), spread=True)
        assert is_open.all()
        assert (codewords[:, 0] > 25).sum() == 1


def test_totals_are_sums_by_code() -> None:
    """Codes without a vector have zeros."""
    sums, members = totals(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([2, 0, 2]), 3)
    assert sums.tolist() == [[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]
    assert members.tolist() == [1.0, 0.0, 2.0]


def _moving(decay: float = 0.5) -> tuple[MovingCodebook, Tensor]:
    codewords = torch.tensor([[0.0], [10.0], [0.0]])
    return MovingCodebook(codewords, torch.tensor([True, True, False]), torch.tensor([3.0, 1.0, 0.0]), decay), codewords


def test_codewords_move_towards_their_members() -> None:
    """By the decay; a code without members stays where it is."""
    moving, codewords = _moving()
    moving.update(torch.full((4, 1), 2.0), torch.tensor([0, 0, 0, 0]))
    # mass .5 * 3 + .5 * 4, sum .5 * 0 + .5 * 8
    torch.testing.assert_close(codewords.flatten(), torch.tensor([4 / 3.5, 10.0, 0.0]))
    for _ in range(60):
        moving.update(torch.full((4, 1), 2.0), torch.tensor([0, 0, 0, 0]))
    torch.testing.assert_close(codewords.flatten(), torch.tensor([2.0, 10.0, 0.0]))


def test_step_without_vectors_changes_nothing() -> None:
    """A source may be absent from a batch, the first one too."""
    moving, codewords = _moving()
    before = codewords.clone()
    moving.update(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
    moving.restarted(torch.tensor([0, 1]))
    assert codewords.equal(before)


def test_restarted_codes_have_the_mean_mass() -> None:
    """So that their next members move them, but not all the way."""
    moving, codewords = _moving()
    moving.update(torch.full((4, 1), 2.0), torch.tensor([0, 0, 0, 0]))
    codewords[1] = 7.0
    moving.restarted(torch.tensor([1]))
    # mean mass of two open codes: 4 / 2; then .5 * 2 + .5 * 2 members at 9
    moving.update(torch.full((2, 1), 9.0), torch.tensor([1, 1]))
    torch.testing.assert_close(codewords[1], torch.tensor([8.0]))
