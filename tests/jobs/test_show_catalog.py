"""`u2qt catalog check` and `show`: suites are part of a catalog."""

import json
import shutil
from pathlib import Path

import pytest

from jobs.errors import BadInput
from jobs.show_catalog import checked, render

EXAMPLE = Path(__file__).parents[2] / "examples" / "stackexchange"


def test_the_packaged_catalog_and_the_example_are_right() -> None:
    """Both check, and both print one table per source after the overview."""
    for folder in (None, EXAMPLE):
        assert len(render(checked(folder))) == 7


def test_a_suite_on_an_unknown_column_is_refused(tmp_path: Path) -> None:
    """File, found and expected stand in the message, before any day runs."""
    folder = tmp_path / "catalog"
    shutil.copytree(EXAMPLE, folder)
    file = folder / "expectations" / "sources" / "answers.json"
    suite = json.loads(file.read_text(encoding="utf-8"))
    suite["expectations"].append({"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "nowhere"}})
    file.write_text(json.dumps(suite), encoding="utf-8")
    with pytest.raises(BadInput, match=r"answers\.json: found column nowhere"):
        checked(folder)
