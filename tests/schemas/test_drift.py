"""The file of drift gates: parsed strictly, complete, and a catalog may have its own."""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from schemas.catalog_files import load_catalog
from schemas.drift import GATES, DriftRules
from schemas.errors import CatalogError

PACKAGED: dict[str, Any] = json.loads((resources.files("expectations") / "drift.json").read_text(encoding="utf-8"))
STACKEXCHANGE = Path(__file__).parents[2] / "examples" / "stackexchange"


def own(tmp_path: Path, rules: object) -> Path:
    """The example catalog with an `expectations/drift.json` of its own."""
    folder = tmp_path / "catalog"
    shutil.copytree(STACKEXCHANGE, folder)
    (folder / "expectations" / "drift.json").write_text(json.dumps(rules))
    return folder


def test_the_packaged_gates_warn_before_they_block() -> None:
    """All four, each with both thresholds."""
    rules = load_catalog().drift
    assert {gate.gate for gate in rules.gates} == set(GATES)
    for gate in rules.gates:
        assert gate.warn is not None
        assert gate.block is not None
        assert [gate.severity(value) for value in (0.0, gate.warn, gate.block)] == ["ok", "warn", "block"]


def test_an_entry_with_a_source_replaces_the_general_one(tmp_path: Path) -> None:
    """A null threshold never speaks."""
    silent = {"gate": "code_usage", "source": "answers", "warn": None, "block": None}
    rules = load_catalog(own(tmp_path, {**PACKAGED, "gates": [*PACKAGED["gates"], silent]})).drift
    assert rules.of("code_usage", str(silent["source"])).severity(99.0) == "ok"
    assert rules.of("code_usage", "questions").severity(99.0) == "block"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"treshold": 1}, "the unknown key 'treshold'"),
        ({"gates": [*PACKAGED["gates"], {"gate": "users", "warn": 0.1, "block": 0.2}]}, "users once each"),
        ({"gates": PACKAGED["gates"][1:]}, "an entry without source for users"),
        ({"gates": [{**gate, "warn": 0.9} for gate in PACKAGED["gates"]]}, "warn threshold that is not above"),
        ({"gates": [{**gate, "sevrity": "warn"} for gate in PACKAGED["gates"]]}, "the unknown key 'sevrity'"),
        ({"gates": [{"gate": gate["gate"], "warn": 0.1} for gate in PACKAGED["gates"]]}, "found nothing"),
        ({"gates": [*PACKAGED["gates"], {"gate": "clean_rows", "source": "weather", "warn": None, "block": None}]}, "source weather"),
        ({"gates": [*PACKAGED["gates"], {"gate": "users", "source": "answers", "warn": None, "block": None}]}, "no source in gate users"),
        ({"trailing_days": 0}, "trailing_days"),
        ({"least_rows": "many"}, "least_rows"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    """A misspelt threshold would be a gate that never speaks."""
    with pytest.raises(CatalogError, match=said):
        load_catalog(own(tmp_path, {**PACKAGED, **change}))


def test_the_model_itself_takes_no_numbers_written_as_text() -> None:
    """Strict: JSON has numbers."""
    with pytest.raises(ValueError, match="least_rows"):
        DriftRules.model_validate({**PACKAGED, "least_rows": "500"})
