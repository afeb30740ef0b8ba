"""Checks of settings: what holds passes, what doesn't is named."""

import pytest

from u2qt_model.errors import ConfigError
from u2qt_model.require import require, require_one_of


def test_what_holds_passes_and_what_does_not_is_named() -> None:
    """Setting, found, expected."""
    require(True, "a.b", 1, "1")
    require_one_of("a.b", "x", ("x", "y"))
    with pytest.raises(ConfigError, match=r"^a\.b: found 2, expected 1$"):
        require(False, "a.b", 2, "1")
    with pytest.raises(ConfigError, match=r"^a\.b: found 'z', expected x or y$"):
        require_one_of("a.b", "z", ("x", "y"))
