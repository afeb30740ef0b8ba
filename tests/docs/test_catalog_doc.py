"""docs/catalog.md names every key and every reason code, and its worked example does what it says."""

import inspect
import re
from datetime import date
from pathlib import Path

import pytest
from pydantic import BaseModel
from pyspark.sql import SparkSession

from jobs import show_catalog, validation_rules
from jobs.raw_input import raw_rows
from schemas.catalog import RESERVED, CatalogHeader, Column, Input, KeyField, Source, TimeField
from schemas.errors import CatalogError
from schemas.keys import Days

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "catalog.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    "## `catalog.yaml`": CatalogHeader,
    "## `sources/<name>.yaml`": Source,
    "### `entity_key`": KeyField,
    "### `event_time` and `available_time`": TimeField,
    "### `columns`": Column,
    "### `input`": Input,
}
FILE = re.compile(r"`(?P<path>(?:shop|in)/[^`]+)`:\n\n```\w+\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """From the heading to the next one of any level."""
    return re.split(r"^#", TEXT.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> set[str]:
    """Names in backticks in the first column of the first table."""
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None, "a section with a table"
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", table[0], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def keys(model: type[BaseModel]) -> set[str]:
    """The model's keys as they are written in YAML."""
    return {field.alias or name for name, field in model.model_fields.items()}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The worked example's files, as the document prints them."""
    for match in FILE.finditer(TEXT):
        file = tmp_path / match["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(match["content"], encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("heading", SECTIONS)
def test_each_table_has_exactly_the_keys_of_its_model(heading: str) -> None:
    """A new key is documented, a dropped one leaves the document."""
    assert first_cells(section(heading)) == keys(SECTIONS[heading])


def test_defaults_are_those_of_the_models() -> None:
    """Numbers and words that stand in the tables' third column."""
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| `?([\w ]+)`? \|", TEXT, re.MULTILINE))
    defaults = [(n, f.default) for model in (CatalogHeader, Source, Column) for n, f in model.model_fields.items() if type(f.default) in (int, str, bool)]
    assert {name: rows[name] for name, _ in defaults} == {name: str(default).lower() for name, default in defaults}


def test_every_reserved_name_is_listed() -> None:
    """In the row about column names."""
    row = next(line for line in section("### `columns`").splitlines() if line.startswith("| `name`"))
    assert set(re.findall(r"`(\w+)`", row)) >= RESERVED


def test_the_reasons_are_exactly_those_of_validation() -> None:
    """Codes are read from the rules' source: `code:column` literals, plain or with a column filled in."""
    codes = set(re.findall(r'"([a-z_]+):(?:\{name\}|[a-z_]+)"', inspect.getsource(validation_rules)))
    assert len(codes) >= 10
    assert first_cells(section("### Reasons")) == codes


def test_the_worked_example_is_a_right_catalog(shop: Path) -> None:
    """Declaration and suite pass `u2qt catalog check`."""
    assert [source.name for source in show_catalog.checked(shop / "shop").sources] == ["visits"]


def test_the_printed_faults_are_what_check_says(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two mistakes that the document describes give the three lines that it prints."""
    file = shop / "shop" / "sources" / "visits.yaml"
    wrong = file.read_text(encoding="utf-8").replace("role: categorical, comment: Kind", "role: category, comment: Kind").replace("dedup_key", "dedupe_key")
    file.write_text(wrong, encoding="utf-8")
    monkeypatch.chdir(shop)
    with pytest.raises(CatalogError) as caught:
        show_catalog.checked(Path("shop"))
    assert f"```text\nu2qt: {caught.value}\n```" in TEXT


def test_the_worked_example_ends_as_the_table_says(spark: SparkSession, shop: Path) -> None:
    """Each visit's moment and reasons, on the printed CSV."""
    catalog = show_catalog.checked(shop / "shop")
    day = date(2026, 3, 1)
    raw = raw_rows(spark, catalog.sources[0], str(shop / "in"), Days(day, day))
    rows = validation_rules.checked_rows(raw, catalog.sources[0], catalog).orderBy("visit").collect()
    table = re.findall(r"^\| (v\d) \| ([\d:\- ]+) \| (.*) \|$", TEXT, re.MULTILINE)
    assert [(r.visit, str(r.event_time), r.reasons) for r in rows] == [(v, at, re.findall(r"`(\w+:\w+)`", end)) for v, at, end in table]
    assert {r.visit: r.copies for r in rows} == {"v1": 1, "v2": 2, "v3": 1, "v4": 1}
