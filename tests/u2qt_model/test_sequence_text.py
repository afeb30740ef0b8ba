"""The text of a sequence and its inverse; tests/jobs/test_sequence_text_view.py compares it with SQL."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from u2qt_model.errors import CodesError
from u2qt_model.sequence_text import Slice, parse_sequence, sequence_text, structural_tokens
from u2qt_model.vocabulary import Vocabulary

WORDS = Vocabulary(sources=("bill", "search"), shared_sizes=(4, 0), own_sizes=(0, 400))
APART = Vocabulary(sources=("bill", "search"), shared_sizes=(4, 0), own_sizes=(0, 400), apart={"search": (3, 3, 3)})
WIDE = Vocabulary(sources=("bill", "search"), shared_sizes=(4, 4), own_sizes=(4, 4))
AS_OF = date(2026, 1, 4)
SLICES = (
    Slice(ds=date(2026, 1, 1), source="bill", codes=(1, 391)),
    Slice(ds=date(2026, 1, 1), source="search", codes=(1, 7)),
    Slice(ds=date(2026, 1, 3), source="search", codes=(2, 7)),
)
TEXT = (
    "<day/><bill><shared_1_0001><bill_2_0391></bill><search><shared_1_0001><search_2_0007></search>"
    "<day/><day/><search><shared_1_0002><search_2_0007></search><day/>"
)


def test_a_literal_text() -> None:
    """Every day opens with a mark: the third of January after the empty second, and the last one, which is empty too."""
    assert sequence_text(SLICES, AS_OF, WORDS) == TEXT
    assert parse_sequence(TEXT, AS_OF, WORDS) == SLICES
    assert sequence_text((), AS_OF, WORDS) == ""
    assert parse_sequence("", AS_OF, WORDS) == ()


def test_structural_tokens_are_what_is_no_code() -> None:
    """The day, then the tags in catalog order."""
    assert structural_tokens(WORDS) == ("<day/>", "<bill>", "</bill>", "<search>", "</search>")


@given(st.sampled_from([WORDS, WIDE, APART]), st.data())
def test_text_and_slices_are_inverse(words: Vocabulary, data: st.DataObject) -> None:
    """For any days and sources, in both layouts, and where a source has levels of its own."""
    places = data.draw(st.sets(st.tuples(st.integers(0, 89), st.integers(0, 1)), max_size=8))
    codes = [st.tuples(*(st.integers(0, int(size) - 1) for size in sizes if size)) for sizes in words.sizes]
    slices = tuple(Slice(ds=AS_OF - timedelta(days=89 - day), source=words.sources[source], codes=data.draw(codes[source])) for day, source in sorted(places))
    assert parse_sequence(sequence_text(slices, AS_OF, words), AS_OF, words) == slices


@pytest.mark.parametrize(
    ("slices", "word"),
    [
        (SLICES[::-1], "expected days up to 2026-01-04 and sources in catalog order"),
        ((SLICES[0], SLICES[0]), "found bill of 2026-01-01 after"),
        ((Slice(ds=date(2026, 1, 5), source="bill", codes=(1, 1)),), "expected days up to 2026-01-04"),
        ((Slice(ds=AS_OF, source="app", codes=(1, 1)),), "found source 'app'"),
        ((Slice(ds=AS_OF, source="bill", codes=(1,)),), "found 1 codes, expected 2"),
        ((Slice(ds=AS_OF, source="bill", codes=(4, 1)),), "code: found 4 of bill at level 1, expected 0 to 3"),
    ],
)
def test_slices_without_a_text_are_refused(slices: tuple[Slice, ...], word: str) -> None:
    """Order, days, sources, levels, codes."""
    with pytest.raises(CodesError, match=word):
        sequence_text(slices, AS_OF, WORDS)


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("<bill>", ""),
        TEXT.replace("</bill>", ""),
        TEXT.replace("<bill_2_0391>", ""),
        TEXT.replace("<bill_2_0391>", "<search_2_0391>"),
        TEXT.replace("0391", "0400"),
        TEXT.replace("<bill>", " <bill>"),
        TEXT.replace("<day/>", ""),
        TEXT[: TEXT.index("<bill_2")],
        TEXT[:-3],
        "<day/>" + TEXT,
        "paid",
        "<day/>" * 800000,
    ],
)
def test_a_text_that_was_not_written_so_is_refused(text: str) -> None:
    """Tags, levels, sources, codes, spaces, a cut, days before the first one."""
    with pytest.raises(CodesError):
        parse_sequence(text, AS_OF, WORDS)
