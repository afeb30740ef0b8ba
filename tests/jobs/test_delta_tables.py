"""The lakehouse over real Delta tables."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from jobs import init_lakehouse
from jobs.context import Context
from jobs.delta_tables import Lakehouse, Where
from jobs.errors import BadInput
from jobs.ledger import record_stage
from schemas.catalog_files import load_catalog
from schemas.errors import IdentifierError
from schemas.keys import Days

FIRST, SECOND = date(2026, 1, 1), date(2026, 1, 2)
COUNTS = (
    "SELECT '{source}' source, DATE'{ds}' delivered_ds, 'd' delivery_id, 5L rows_in, {clean}L clean, 1L quarantined, 1L duplicates, "
    "'passed' gate, 'r' run_id, CAST(NULL AS BIGINT) forgotten, CAST(NULL AS MAP<STRING, BIGINT>) nulls"
)


def test_init_twice_changes_nothing(ready: Context) -> None:
    """The second run finds every table; no version moves."""
    assert init_lakehouse.run(ready)["created"] == 0
    assert ready.lake.version("user_tokens") == 0


def test_init_with_another_catalog_makes_nothing(ready: Context) -> None:
    """Tables of its sources would stand in the way of a `forget` by the right one."""
    other = load_catalog(Path(__file__).resolve().parents[2] / "examples" / "stackexchange")
    before = sorted(path.name for path in Path(ready.lake.root).iterdir())
    with pytest.raises(BadInput, match="give that one, or another --root"):
        init_lakehouse.run(replace(ready, catalog=other))
    assert sorted(path.name for path in Path(ready.lake.root).iterdir()) == before


def test_replace_touches_only_its_partition(ready: Context) -> None:
    """Replacing one day leaves the other, and pinned files and row counts say so."""
    for ds in (FIRST, SECOND, SECOND):
        rows = ready.spark.sql(COUNTS.format(source="bill", ds=ds, clean=3))
        version = ready.lake.replace("deliveries", rows, Where(days=Days(ds, ds), day_column="delivered_ds"), {"run_id": "r"})
    files = ready.lake.active_files("deliveries", version)
    assert [(f.partition["delivered_ds"], f.rows) for f in files] == [(str(FIRST), 1), (str(SECOND), 1)]
    assert len(ready.lake.active_files("deliveries", 1)) == 1


def test_replace_rejects_rows_outside_its_predicate(ready: Context) -> None:
    """A stray row makes the whole write fail and the table keeps its version."""
    rows = ready.spark.sql(COUNTS.format(source="bill", ds=SECOND, clean=3))
    with pytest.raises(Exception, match="REPLACE_WHERE"):
        ready.lake.replace("deliveries", rows, Where(days=Days(FIRST, FIRST), day_column="delivered_ds"), {})
    assert ready.lake.version("deliveries") == 0


def test_outcomes_that_do_not_add_up_are_refused(ready: Context) -> None:
    """The CHECK constraint of `deliveries` is enforced by Delta."""
    rows = ready.spark.sql(COUNTS.format(source="bill", ds=FIRST, clean=4))
    with pytest.raises(Exception, match=re.compile("CHECK|constraint", re.IGNORECASE)):
        ready.lake.append("deliveries", rows, {})


def test_predicates_take_identifiers_only() -> None:
    """Quotes never reach SQL."""
    with pytest.raises(IdentifierError):
        Where(equals=(("source", "x' OR '1'='1"),)).sql()


@pytest.mark.parametrize("root", ["/tmp/a#b", "/tmp/a`b", "/tmp/../etc"])
def test_roots_that_would_be_misread_are_refused(context: Context, root: str) -> None:
    """The message names the character."""
    with pytest.raises(BadInput, match="expected a path without it"):
        Lakehouse(context.spark, root)


def test_a_table_that_is_not_there_names_the_way_out(context: Context) -> None:
    """Before `u2qt init` every read says to run it."""
    with pytest.raises(BadInput, match="u2qt init"):
        context.lake.read("user_tokens")


def test_the_ledger_records_a_failure_and_lets_it_pass(ready: Context) -> None:
    """An unexpected error is recorded by its type alone: its text could hold content."""

    def failing() -> None:
        with record_stage(ready, "encode_users", Days(FIRST, FIRST)) as record:
            record.rows["read"] = 3
            raise ZeroDivisionError("secret")

    with pytest.raises(ZeroDivisionError):
        failing()
    row = ready.lake.read("runs").first()
    assert row is not None
    assert (row.status, row.rows, row.detail) == ("failed", {"read": 3}, '{"error": "ZeroDivisionError"}')
