"""Blocks: every text once, in a shape that its length alone decides, with room left in every row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from u2qt_model.length_blocks import length_blocks, padded_length

LENGTHS = st.lists(st.integers(0, 300), max_size=40)


@given(st.integers(0, 40_000))
def test_padding_is_at_least_one_and_at_most_an_eighth(tokens: int) -> None:
    """Or 16 tokens; whole steps of 16."""
    length = padded_length(tokens)
    assert tokens < length <= max(tokens + 16, tokens * 9 / 8 + 1)
    assert length % 16 == 0


@given(LENGTHS, st.integers(1, 2000))
def test_every_text_is_in_one_block(lengths: list[int], block_tokens: int) -> None:
    """Texts without a token are in none; texts fit, short of one position."""
    blocks = list(length_blocks(lengths, block_tokens, 301))
    places = [int(place) for block in blocks for place in block.places]
    assert sorted(places) == [place for place, length in enumerate(lengths) if length]
    for block in blocks:
        assert 1 <= len(block.places) <= block.rows
        assert all(lengths[place] < block.length <= 301 for place in block.places)
        assert block.rows == 1 or block.rows * block.length <= block_tokens


@given(LENGTHS, LENGTHS)
def test_shape_does_not_depend_on_the_others(some: list[int], more: list[int]) -> None:
    """Of `some`, alone and in company."""

    def shapes(lengths: list[int]) -> dict[int, tuple[int, int]]:
        return {int(place): (block.rows, block.length) for block in length_blocks(lengths, 512, 301) for place in block.places}

    alone, together = shapes(some), shapes(some + more)
    assert {place: together[place] for place in alone} == alone


@pytest.mark.parametrize(("tokens", "length"), [(1, 16), (15, 16), (16, 32), (127, 128), (128, 144), (256, 288)])
def test_steps_are_pinned(tokens: int, length: int) -> None:
    """Other shapes could give other last bits under the same fingerprint."""
    assert padded_length(tokens) == length


def test_short_texts_come_first() -> None:
    """Within a length in their order; the last block of a length may have rows to spare."""
    blocks = [(block.rows, block.length, block.places.tolist()) for block in length_blocks([20, 3, 4, 5, 6, 0], 50, 301)]
    assert blocks == [(3, 16, [1, 2, 3]), (3, 16, [4]), (1, 32, [0])]
    assert list(length_blocks([], 50, 301)) == []
