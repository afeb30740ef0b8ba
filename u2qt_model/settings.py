"""Single settings of a configuration by name, as a command line gives them: `quantizer.beam=4`."""

import json
from collections.abc import Iterable
from typing import Any

from u2qt_model.config import TokenizerConfig
from u2qt_model.errors import ConfigError
from u2qt_model.json_form import from_plain, to_plain


def with_settings(config: TokenizerConfig, settings: Iterable[str]) -> TokenizerConfig:
    """`config` with each PART.NAME=VALUE set; ConfigError for another form, an unknown name, or a value of another type or range."""
    plain = to_plain(config)
    for setting in settings:
        path, separator, value = setting.partition("=")
        part, _, name = path.partition(".")
        if not separator or not isinstance(plain.get(part), dict) or name not in plain[part]:
            known = sorted(f"{part}.{name}" for part, inside in plain.items() if isinstance(inside, dict) for name in inside)
            raise ConfigError(f"--set {setting}: unknown, expected NAME=VALUE with one of {', '.join(known)}")
        plain[part][name] = _value(value, plain[part][name])
    return from_plain(TokenizerConfig, plain, "config")


def _value(text: str, before: Any) -> Any:
    """Text stays text; everything else is read as JSON, and checked where it is put."""
    if isinstance(before, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or of a depth or size that no setting has
        return text
