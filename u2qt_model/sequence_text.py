"""A user's slices as one text for language models, and back: the column `text` of the view user_token_sequences.

    <day/><bill><shared_1_0001><bill_2_0391></bill><day/><day/><search><shared_1_0002><search_2_0007></search>

Every day from the user's first one to `as_of` opens with `<day/>`, also one without a slice; then come the day's slices in
catalog order, each as a block of its token names. A source that is absent has no block. No spaces anywhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from u2qt_model.errors import CodesError
from u2qt_model.vocabulary import Vocabulary

DAY = "<day/>"  # no source's name can give it
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """What a user did in one source on one day."""

    ds: date
    source: str
    codes: tuple[int, ...]  # (L,)


def structural_tokens(vocabulary: Vocabulary) -> tuple[str, ...]:
    """What stands in a text beside the tokens of codes: the day, then each source's opening and closing tag."""
    return (DAY, *(tag for source in vocabulary.sources for tag in (_opening(source), _closing(source))))


def sequence_text(slices: Sequence[Slice], as_of: date, vocabulary: Vocabulary) -> str:
    """The text of one user's slices, which are by day and then in catalog order; empty for none.

    CodesError for another order, a day after `as_of`, a foreign source or code, or a slice without all its levels.
    """
    parts: list[str] = []
    last: tuple[date, int] | None = None
    for piece in slices:
        place = (piece.ds, _source_index(piece.source, vocabulary))
        if (last is not None and place <= last) or piece.ds > as_of:
            raise CodesError(f"sequence: found {piece.source} of {piece.ds} after {last}, expected days up to {as_of} and sources in catalog order")
        days = (piece.ds - last[0]).days if last else 1
        parts += [DAY * days, _block(piece, vocabulary)]
        last = place
    return "".join(parts) + DAY * ((as_of - last[0]).days if last else 0)


def parse_sequence(text: str, as_of: date, vocabulary: Vocabulary) -> tuple[Slice, ...]:
    """The inverse of `sequence_text`: the last `<day/>` is `as_of`. CodesError for any text that it can't have written."""
    tags = _TAG.findall(text)
    days = tags.count(DAY)
    if days >= as_of.toordinal():
        raise CodesError(f"sequence text: found {days} {DAY} up to {as_of}, expected fewer than {as_of.toordinal()}")
    ds = as_of - timedelta(days=days)
    slices, place = [], 0
    while place < len(tags):
        if tags[place] == DAY:
            ds, place = ds + timedelta(days=1), place + 1
            continue
        source = tags[place][1:-1]
        _source_index(source, vocabulary)
        end = place + 1 + vocabulary.levels_of(source)
        slices.append(Slice(ds=ds, source=source, codes=tuple(vocabulary.parse_name(name).code for name in tags[place + 1 : end])))
        place = end + 1
    if sequence_text(slices, as_of, vocabulary) != text:
        raise CodesError(f"sequence text: found {text[:80]!r} ({len(text)} characters), expected {DAY} and whole blocks only, the first day with a block")
    return tuple(slices)


def _block(piece: Slice, vocabulary: Vocabulary) -> str:
    expected = vocabulary.levels_of(piece.source)
    if len(piece.codes) != expected:
        raise CodesError(f"sequence, {piece.source} of {piece.ds}: found {len(piece.codes)} codes, expected {expected}")
    names = (vocabulary.token_name(piece.source, level, code) for level, code in enumerate(piece.codes, start=1))
    return f"{_opening(piece.source)}{''.join(names)}{_closing(piece.source)}"


def _source_index(source: str, vocabulary: Vocabulary) -> int:
    if source not in vocabulary.sources:
        raise CodesError(f"sequence: found source {source!r}, expected one of {vocabulary.sources}")
    return vocabulary.sources.index(source)


def _opening(source: str) -> str:
    return f"<{source}>"


def _closing(source: str) -> str:
    return f"</{source}>"
