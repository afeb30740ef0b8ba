"""Catalogs: the packaged one is right, and every kind of fault is named with file, field, found and expected."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from schemas.catalog_files import load_catalog
from schemas.errors import CatalogError, IdentifierError

REPOSITORY = Path(__file__).resolve().parents[2]
Edit = Callable[[dict], None]  # type: ignore[type-arg]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the packaged catalog as a folder of its own."""
    root = tmp_path / "catalog"
    shutil.copytree(REPOSITORY / "schemas" / "sources", root / "sources")
    shutil.copy(REPOSITORY / "schemas" / "catalog.yaml", root / "catalog.yaml")
    shutil.copytree(REPOSITORY / "expectations" / "sources", root / "expectations" / "sources")
    return root


def edit(folder: Path, file: str, change: Edit) -> None:
    path = folder / file
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def problems(folder: Path) -> str:
    with pytest.raises(CatalogError) as caught:
        load_catalog(folder)
    return str(caught.value)


def test_the_packaged_catalog_has_the_six_sources() -> None:
    """Order is part of the meaning."""
    assert [s.name for s in load_catalog().sources] == ["bill", "mini_program", "spm", "app", "search", "profile"]


def test_the_layout_says_where_an_event_s_times_are() -> None:
    """`timed` promises that its last two values are time of day and gap; a profile has none."""
    catalog = load_catalog()
    for source, described in zip(catalog.sources, catalog.feature_layout()["sources"], strict=True):
        assert described["timed"] == (source.kind == "events") == (source.value_names[-2:] == ("time_of_day", "gap"))


def test_a_copied_folder_means_the_same(folder: Path) -> None:
    """A catalog does not depend on where it lies."""
    assert load_catalog(folder).feature_layout() == load_catalog().feature_layout()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(kinds="events"), "the unknown key 'kinds'"),
        (lambda c: c["columns"][1].update(type="int"), "columns.1.type: found 'int', expected 'string', 'bigint'"),
        (lambda c: c["columns"][1].update(role="category"), "columns.1.role: found 'category'"),
        (lambda c: c["columns"].append(dict(c["columns"][0])), "expected columns: bill_id once each"),
        (lambda c: c.update(template="{product} {price}"), "{price} to name a column"),
        (lambda c: c.update(template="{product"), "balanced braces"),
        (lambda c: c.update(template="{product} {}"), "name of a column"),
        (lambda c: c.update(template="{product!r}"), "name of a column"),
        (lambda c: c.update(template="{product:log2}"), ":log2 on a numeric column"),
        (lambda c: c["event_time"].update(zone="Asia/Shangai"), "event_time.zone: found 'Asia/Shangai', expected an IANA time zone"),
        (lambda c: c.update(dedup_key=["bill_no"]), "dedup_key: 'bill_no' among the columns"),
        (lambda c: c.update(dedup_key=["counterparty_type"]), "nullable: false"),
        (lambda c: c["input"].update(format="xml"), "input.format: found 'xml'"),
        (lambda c: c["input"].update(path="../other/{ds}"), "a path without '..'"),
        (lambda c: c["input"].update(path="bill"), "either {ds} in path or a delivered_ds column"),
        (lambda c: c["columns"][0].update(name="user_id"), "a name that U2QT does not use itself"),
        (lambda c: c.update(name="users"), "a name that U2QT does not count by itself (ds, user_id, users)"),
        (lambda c: c["columns"][0].update(name="Bill"), "columns.0.name: found 'Bill', expected name 'Bill'"),
        (lambda c: c["columns"][1].update(role="numeric"), "role numeric with type bigint or double"),
        (lambda c: c.pop("description"), "description: found nothing"),
        (lambda c: c.update(name="bills"), "found 'bills', expected 'bill', as the file is called"),
    ],
)
def test_a_fault_in_a_declaration_is_named(folder: Path, change: Edit, expected: str) -> None:
    """The message has the file and says what was found or expected."""
    edit(folder, "sources/bill.yaml", change)
    said = problems(folder)
    assert "sources/bill.yaml" in said
    assert expected in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(time_zone="Mars/Olympus"), "time_zone: found 'Mars/Olympus'"),
        (lambda c: c.update(delivery_lag="6 hours"), "delivery_lag: found '6 hours'"),
        (lambda c: c.update(sources=["bill", "bill"]), "each name once"),
        (lambda c: c.update(sources=["profile"]), "no source of kind events"),
        (lambda c: c["sources"].append("rides"), "sources/rides.yaml: file: found nothing there"),
        (lambda c: c["sources"].remove("spm"), "a declaration that catalog.yaml does not list"),
    ],
)
def test_a_fault_in_the_header_is_named(folder: Path, change: Edit, expected: str) -> None:
    """The header is checked with the sources it names."""
    edit(folder, "catalog.yaml", change)
    assert expected in problems(folder)


def test_all_faults_are_told_at_once(folder: Path) -> None:
    """Two broken files give two messages."""
    for name in ("bill", "spm"):
        edit(folder, f"sources/{name}.yaml", lambda c: c.pop("dedup_key"))
    assert problems(folder).count("dedup_key") == 2


def test_a_key_written_twice_is_refused(folder: Path) -> None:
    """Plain YAML would take the last one silently."""
    with (folder / "sources" / "bill.yaml").open("a", encoding="utf-8") as file:
        file.write("kind: profile\n")
    assert "key kind written twice" in problems(folder)


def test_python_in_yaml_is_not_built(folder: Path) -> None:
    """Only plain YAML is read."""
    (folder / "catalog.yaml").write_text("!!python/object/apply:os.system ['true']\n", encoding="utf-8")
    assert "could not determine a constructor" in problems(folder)


@pytest.mark.parametrize(("text", "expected"), [("{", "valid JSON"), ('{"expectations": []}', "at least one expectation"), (None, "this file")])
def test_a_suite_must_be_there_and_hold_something(folder: Path, text: str | None, expected: str) -> None:
    """A source without checks would pass its gate whatever it holds."""
    suite = folder / "expectations" / "sources" / "bill.json"
    suite.unlink()
    if text is not None:
        suite.write_text(text, encoding="utf-8")
    assert expected in problems(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With what a catalog folder holds."""
    assert "a folder with catalog.yaml" in problems(tmp_path / "nowhere")


def test_an_unknown_source_names_the_known_ones() -> None:
    """So that a typing error can be seen."""
    with pytest.raises(IdentifierError, match="expected one of bill, mini_program"):
        load_catalog().source("bills")
