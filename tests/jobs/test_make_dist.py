"""What spark-submit is given: complete, reproducible, and shadowing nobody's modules."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer.main

from jobs import cli, make_dist
from jobs.errors import BadInput

REPOSITORY = Path(__file__).resolve().parents[2]
SETUP = """[metadata]
version = 7.8.9
[options.package_data]
schemas = *.yaml, sources/*.yaml
"""
READ_ALL = """
import sys
from importlib import resources
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path.insert(0, sys.argv[1])
import jobs
assert jobs.__file__.startswith(sys.argv[1]), jobs.__file__
from schemas.catalog_files import load_catalog
from jobs import create_views, quality, report_page
catalog = load_catalog()
assert len(catalog.sources) == 6
assert "user_token_sequences" in create_views.ddl(catalog, "/lake")
quality.packaged_suite("user_features.json", catalog.feature_layout(), rows=1)
report_page._environment().get_template("report.html.j2")
with resources.as_file(resources.files("jobs") / "log4j2.properties") as quiet:
    assert quiet.is_file()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The smallest source checkout: every entry file, one data file, and what must stay outside."""
    root = tmp_path / "checkout"
    for package in make_dist.PACKAGES:
        (root / package / "__pycache__").mkdir(parents=True)
        (root / package / "__init__.py").write_text("")
        (root / package / "__pycache__" / "old.cpython-311.pyc").write_text("compiled")
    for entry in make_dist.ENTRIES:
        (root / "jobs" / entry).write_text("VALUE = 1\n")
    (root / "schemas" / "sources").mkdir()
    (root / "schemas" / "sources" / "bill.yaml").write_text("name: bill\n")
    (root / "schemas" / "notes.txt").write_text("not declared")
    (root / "tests").mkdir()
    (root / "tests" / "test_it.py").write_text("")
    (root / "setup.cfg").write_text(SETUP)
    return root


def names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        return opened.namelist()


def test_the_zip_holds_modules_and_declared_data_only(checkout: Path, tmp_path: Path) -> None:
    """No tests, no compiled files, nothing that setup.cfg does not declare; named after the version; sorted."""
    archive = make_dist.run(tmp_path / "dist", checkout)
    found = names(archive)
    assert archive.name == "u2qt-7.8.9.zip"
    assert found == sorted(found)
    assert set(found) == {f"{p}/__init__.py" for p in make_dist.PACKAGES} | {f"jobs/{e}" for e in make_dist.ENTRIES} | {"schemas/sources/bill.yaml"}


def test_every_file_of_this_checkout_is_in_its_zip(tmp_path: Path) -> None:
    """A template, suite, view or declaration that setup.cfg forgets would be missing on a cluster only."""
    found = set(names(make_dist.run(tmp_path, REPOSITORY)))
    tracked = [path for package in make_dist.PACKAGES for path in (REPOSITORY / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert found == {path.relative_to(REPOSITORY).as_posix() for path in tracked}


def test_the_same_sources_give_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    """Not the times of the files, nor their permissions, nor where they lie; one changed byte shows."""
    first = make_dist.run(tmp_path / "one", checkout).read_bytes()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(checkout, elsewhere, copy_function=shutil.copyfile)
    (elsewhere / "jobs" / "cli.py").chmod(0o700)
    assert make_dist.run(tmp_path / "two", elsewhere).read_bytes() == first
    (elsewhere / "jobs" / "cli.py").write_text("VALUE = 2\n")
    assert make_dist.run(tmp_path / "two", elsewhere).read_bytes() != first


def test_an_earlier_version_is_replaced(checkout: Path, tmp_path: Path) -> None:
    """The documented `u2qt-*.zip` has to be one file, and a stage that is gone can't be submitted."""
    (tmp_path / "dist" / "jobs").mkdir(parents=True)
    (tmp_path / "dist" / "u2qt-0.0.1.zip").write_text("old")
    (tmp_path / "dist" / "jobs" / "gone.py").write_text("old")
    archive = make_dist.run(tmp_path / "dist", checkout)
    assert list((tmp_path / "dist").glob("*.zip")) == [archive]
    assert sorted(path.name for path in (tmp_path / "dist" / "jobs").iterdir()) == sorted(make_dist.ENTRIES.values())


def test_the_sources_themselves_are_no_target(checkout: Path) -> None:
    """`make_dist .` would replace the package by its entry files."""
    with pytest.raises(BadInput, match="package jobs"):
        make_dist.run(checkout, checkout)
    assert (checkout / "jobs" / "__init__.py").exists()


def test_without_a_checkout_it_says_so(tmp_path: Path) -> None:
    """From an installed wheel or from the zip there is no setup.cfg to read."""
    with pytest.raises(BadInput, match=r"setup\.cfg"):
        make_dist.run(tmp_path / "dist", tmp_path)


def test_a_missing_folder_argument_is_a_usage_error() -> None:
    """And not a zip in a folder called None."""
    with pytest.raises(SystemExit, match="usage"):
        make_dist.main([])


@pytest.mark.parametrize("entry", make_dist.ENTRIES.values())
def test_no_entry_shadows_a_module(entry: str) -> None:
    """Its folder stands first on sys.path: a module called as one of Python's or a dependency's would be taken for it."""
    name = Path(entry).stem
    assert name not in sys.stdlib_module_names
    assert importlib.util.find_spec(name) is None


@pytest.mark.parametrize("source", [source for source in make_dist.ENTRIES if source != "cli.py"])
def test_each_stage_file_submits_a_command_that_exists(source: str) -> None:
    """The footer's verb is one of `u2qt`'s."""
    footer = (REPOSITORY / "jobs" / source).read_text(encoding="utf-8").partition('if __name__ == "__main__":\n')[2]
    verb = footer.partition('submit("')[2].partition('"')[0]
    assert verb in typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def test_packaged_data_is_read_from_the_zip(tmp_path: Path) -> None:
    """Catalog, suites, views, templates and log settings, by a Python that has no sources to fall back on."""
    archive = make_dist.run(tmp_path, REPOSITORY)
    done = subprocess.run([sys.executable, "-c", READ_ALL, str(archive)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
