"""Settings from a command line: typed, checked, and named when they are wrong."""

import pytest

from u2qt_model.errors import ConfigError
from u2qt_model.presets import tiny
from u2qt_model.settings import with_settings


def test_settings_are_typed() -> None:
    """Numbers, booleans, words and floats; nothing given changes nothing."""
    given = ["quantizer.beam=4", "quantizer.restart_dead=false", "quantizer.gradient=rotation", "training.learning_rate=0.001"]
    quantizer = with_settings(tiny(), given).quantizer
    assert (quantizer.beam, quantizer.restart_dead, quantizer.gradient) == (4, False, "rotation")
    assert with_settings(tiny(), given).training.learning_rate == 0.001
    assert with_settings(tiny(), []) == tiny()


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("quantizer.beams=4", "quantizer.beams=4: unknown, expected NAME=VALUE with one of .*quantizer.beam,"),
        ("beam=4", "unknown"),
        ("quantizer.beam", "unknown"),
        ("quantizer=4", "unknown"),
        ("quantizer.beam=four", "beam: found 'four', expected int"),
        ("quantizer.beam=4.5", "expected int"),
        ("quantizer.beam=true", "expected int"),
        ("quantizer.beam=0", "quantizer.beam: found 0, expected 1 to 64"),
        ("quantizer.layout=deep", "found 'deep', expected depth or width"),
        ("quantizer.layout=width\u00a0", "expected depth or width"),
    ],
)
def test_wrong_settings_are_named(setting: str, word: str) -> None:
    """Name, what was found, what was expected."""
    with pytest.raises(ConfigError, match=word):
        with_settings(tiny(), [setting])
