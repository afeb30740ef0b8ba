"""Frozen dataclasses of numbers, strings, tuples and other such, to JSON and strictly back. Knows no field by name."""

import dataclasses
import json
from typing import Any, TypeVar, get_args, get_origin

from u2qt_model.errors import ConfigError

T = TypeVar("T")


def canonical_json(value: object) -> str:
    """One text per value: sorted keys, no spaces, ASCII. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def to_plain(value: Any) -> Any:
    """Dataclasses become dicts, tuples become lists; the inverse of `from_plain`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [to_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_plain(cls: type[T], value: object, where: str) -> T:
    """`value` as `cls`; an unknown, missing or mistyped key is a ConfigError that names it as a path below `where`."""
    if not dataclasses.is_dataclass(cls):
        return _scalar(cls, value, where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: found {type(value).__name__}, expected an object")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    wrong = sorted(set(value) ^ set(fields))
    if wrong:
        raise ConfigError(f"{where}.{wrong[0]}: {'unknown' if wrong[0] in value else 'missing'}, expected {sorted(fields)}")
    built = {name: _typed(field.type, value[name], f"{where}.{name}") for name, field in fields.items()}
    return cls(**built)


def _typed(kind: Any, value: object, where: str) -> Any:
    if get_origin(kind) is not tuple:
        return from_plain(kind, value, where)
    if not isinstance(value, list):
        raise ConfigError(f"{where}: found {type(value).__name__}, expected a list")
    return tuple(from_plain(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))


def _scalar(kind: type[T], value: object, where: str) -> T:
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: found {value!r}, expected {kind.__name__}")
    return kind(value)  # type: ignore[call-arg]
