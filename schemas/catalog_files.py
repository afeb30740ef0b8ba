"""Reads a catalog folder; every fault becomes a `Problem` with file, field, found and expected."""

import json
from collections.abc import Hashable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from schemas.catalog import Catalog, CatalogHeader, Source
from schemas.drift import DriftRules
from schemas.errors import CatalogError, Problem
from schemas.passwords import without_secrets

DRIFT = "drift.json"
Model = TypeVar("Model", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, which plain YAML resolves silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(k) for k in keys if keys.count(k) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {', '.join(twice)} written twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_catalog(folder: str | Path | None = None) -> Catalog:
    """The catalog in `folder`, or the packaged default of six sources. Raises `CatalogError` with every problem."""
    root, expectations, location = _roots(folder)
    problems: list[Problem] = []
    header = _parse(root / "catalog.yaml", CatalogHeader, problems)
    if header is None:
        raise CatalogError(problems)
    sources, suites = [], {}
    for name in header.sources:
        source = _parse(root / "sources" / f"{name}.yaml", Source, problems)
        suite = _suite(expectations / "sources" / f"{name}.json", problems)
        if source is not None:
            sources.append(source)
            if source.name != name:
                problems.append(_problem(f"sources/{name}.yaml", "name", repr(source.name), f"{name!r}, as the file is called"))
        if suite is not None:
            suites[name] = suite
    drift = _drift(expectations, header, problems)
    problems += _whole(header, sources) + _strays(root, header)
    if problems or drift is None:
        raise CatalogError(problems)
    return Catalog(header=header, sources=tuple(sources), suites=suites, drift=drift, location=location)


def _drift(expectations: Traversable, header: CatalogHeader, problems: list[Problem]) -> DriftRules | None:
    """The catalog's own `expectations/drift.json`, or the packaged one."""
    own = expectations / DRIFT
    file = own if own.is_file() else resources.files("expectations") / DRIFT
    rules = _parse(file, DriftRules, problems)
    unknown = sorted(rules.sources - set(header.sources)) if rules else []
    if unknown:
        problems.append(_problem(f"expectations/{DRIFT}", "gates", f"source {', '.join(unknown)}", f"one of {', '.join(header.sources)}"))
    return rules


def _roots(folder: str | Path | None) -> tuple[Traversable, Traversable, str]:
    if folder is None:
        return resources.files("schemas"), resources.files("expectations"), "the packaged default"
    root = Path(folder)
    if not _is_folder(root):
        raise CatalogError([_problem(str(folder), "folder", "nothing there", "a folder with catalog.yaml, sources/, expectations/")])
    return root, root / "expectations", str(root.resolve())


def _is_folder(root: Path) -> bool:
    try:
        return root.is_dir()
    except OSError:  # such as a name that is too long
        return False


def _problem(file: str, field: str, found: str, expected: str) -> Problem:
    return Problem(file=file, field=field, found=found, expected=expected)


def _read(file: Traversable, problems: list[Problem]) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        problems.append(_problem(str(file), "file", "nothing there", "this file, as catalog.yaml names the source"))
    except UnicodeDecodeError as error:
        problems.append(_problem(str(file), f"byte {error.start}", "bytes that are not UTF-8", "UTF-8 text"))
    except OSError as error:  # a folder in its place, a loop of links, no permission
        problems.append(_problem(str(file), "file", f"nothing readable ({error.strerror})", "a file that this user may read"))
    return None


def _parse(file: Traversable, model: type[Model], problems: list[Problem]) -> Model | None:
    text = _read(file, problems)
    if text is None:
        return None
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
        return model.model_validate(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "content"
        problems.append(_problem(str(file), line, str(getattr(error, "problem", error)), "valid YAML"))
    except RecursionError:
        problems.append(_problem(str(file), "content", "thousands of levels of nesting", "a declaration (docs/catalog.md)"))
    except ValidationError as error:  # of ours: a ValueError too, and so before it
        problems += [_from_pydantic(str(file), fault) for fault in error.errors(include_url=False)]
    except ValueError as error:  # YAML's own readers of dates and numbers: 2024-13-45, an integer of 5,000 digits
        problems.append(_problem(str(file), "content", f"a value that can't be read ({error})", "valid YAML; quote it to make it text"))
    return None


def _from_pydantic(file: str, fault: Any) -> Problem:
    """`expected` is our validators' own wording, else pydantic's message."""
    field = ".".join(str(part) for part in fault["loc"]) or "declaration"
    found = "nothing" if fault["type"] == "missing" else _short(fault["input"])
    if fault["type"] == "extra_forbidden":
        return _problem(file, field, f"the unknown key {fault['loc'][-1]!r}", "only the documented keys (docs/catalog.md)")
    expected = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "literal_error":
        expected = fault["ctx"]["expected"]
    return _problem(file, field, found, expected)


def _short(value: object) -> str:
    """Scalars as they are; a whole declaration is only named."""
    if isinstance(value, dict | list | tuple | BaseModel):
        return "this declaration"
    text = without_secrets(ascii(value))  # ASCII: a look-alike shows
    return text if len(text) <= 80 else text[:77] + "..."


def _suite(file: Traversable, problems: list[Problem]) -> str | None:
    text = _read(file, problems)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(_problem(str(file), f"line {error.lineno}", error.msg, "valid JSON"))
        return None
    except (RecursionError, ValueError) as error:
        problems.append(_problem(str(file), "content", f"what can't be read ({type(error).__name__})", "a suite's JSON"))
        return None
    if not isinstance(content, dict) or not content.get("expectations"):
        problems.append(_problem(str(file), "expectations", "none", "a suite with at least one expectation"))
        return None
    return text


def _whole(header: CatalogHeader, sources: list[Source]) -> list[Problem]:
    """What only the sources together can get wrong."""
    profiles = [s.name for s in sources if s.kind == "profile"]
    problems = []
    if len(profiles) > 1:
        problems.append(_problem("catalog.yaml", "sources", f"profiles {', '.join(profiles)}", "at most one source of kind profile"))
    if len(sources) == len(header.sources) and len(profiles) == len(sources):
        problems.append(_problem("catalog.yaml", "sources", "no source of kind events", "at least one"))
    return problems


def _strays(root: Traversable, header: CatalogHeader) -> list[Problem]:
    folder = root / "sources"
    if not folder.is_dir():
        return []
    found = sorted(f.name for f in folder.iterdir() if f.name.endswith((".yaml", ".yml")))
    strays = [f for f in found if f.removesuffix(".yaml") not in header.sources]
    return [_problem(f"sources/{f}", "file", "a declaration that catalog.yaml does not list", "its name under `sources`, or no file") for f in strays]
