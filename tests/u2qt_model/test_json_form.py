"""Frozen dataclasses to JSON and strictly back."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model.errors import ConfigError
from u2qt_model.json_form import canonical_json, from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Outer:
    size: int
    parts: tuple[Inner, ...]


INNER = st.builds(Inner, name=st.text(max_size=5), share=st.floats(allow_nan=False, allow_infinity=False))
OUTER = st.builds(Outer, size=st.integers(), parts=st.lists(INNER, max_size=3).map(tuple))


@settings(max_examples=30)
@given(OUTER)
def test_values_survive_json(value: Outer) -> None:
    """`from_plain` is the inverse of `to_plain`, through text."""
    assert from_plain(Outer, json.loads(canonical_json(to_plain(value))), "outer") == value


def test_equal_values_have_one_text() -> None:
    """Sorted, without spaces, ASCII."""
    assert canonical_json({"b": 1.5, "a": ["\u00e9", None]}) == '{"a":["\\u00e9",null],"b":1.5}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})


GOOD = {"size": 1, "parts": [{"name": "a", "share": 1}]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"size": 1.0}, r"outer\.size: found 1\.0, expected int"),
        ({"size": True}, r"outer\.size: found True, expected int"),
        ({"size": None}, r"outer\.size: found None"),
        ({"extra": 1}, r"outer\.extra: unknown"),
        ({"parts": "ab"}, r"outer\.parts: found str, expected a list"),
        ({"parts": [{"name": "a"}]}, r"outer\.parts\[0\]\.share: missing"),
        ({"parts": [{"name": 1, "share": 1}]}, r"outer\.parts\[0\]\.name: found 1, expected str"),
        ({"parts": [[]]}, r"outer\.parts\[0\]: found list, expected an object"),
    ],
)
def test_foreign_values_are_refused_by_path(change: dict[str, object], word: str) -> None:
    """Unknown, missing and mistyped keys; an int is a float, a bool isn't an int."""
    assert from_plain(Outer, GOOD, "outer").parts[0].share == 1.0
    with pytest.raises(ConfigError, match=word):
        from_plain(Outer, GOOD | change, "outer")
