"""Checks of single settings, for configurations' `__post_init__`."""

from u2qt_model.errors import ConfigError


def require(holds: bool, setting: str, found: object, expected: str) -> None:
    """ConfigError naming setting, found and expected unless `holds`."""
    if not holds:
        raise ConfigError(f"{setting}: found {found!r}, expected {expected}")


def require_one_of(setting: str, found: str, allowed: tuple[str, ...]) -> None:
    """ConfigError unless `found` is one of the words."""
    require(found in allowed, setting, found, " or ".join(allowed))
