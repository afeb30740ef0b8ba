"""Every query of docs/sql.md runs on a published lakehouse and has the columns that the document prints."""

import re
from pathlib import Path

import pytest

from jobs import create_views, query_sql
from jobs.context import Context

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "sql.md"
EXAMPLE = re.compile(r"^```sql\n(?P<query>.*?)^```\n\s*^```text\n(?P<output>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [(match["query"], match["output"]) for match in EXAMPLE.finditer(DOCUMENT.read_text(encoding="utf-8"))]
QUESTION = re.compile(r"^## (\d+)\. .*\?", re.MULTILINE)


def printed_columns(output: str) -> list[str]:
    """Column names of a printed table; the dashes below the header say where each stands."""
    header, rule = output.splitlines()[:2]
    return [header[dashes.start() : dashes.end()].strip() for dashes in re.finditer("-+", rule)]


@pytest.fixture(scope="module")
def registered(published: Context) -> Context:
    """The lakehouse with its tables and views in the session's catalog."""
    create_views.run(published)
    return published


@pytest.mark.parametrize(("query", "output"), EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_the_query_gives_rows_with_the_printed_columns(registered: Context, simulated: Path, query: str, output: str) -> None:
    """What a reader copies works; the labels of the demo are those of the fixture."""
    found = query_sql.run(registered, query.replace("demo/labels", str(simulated / "labels")))
    assert found.columns == printed_columns(output)
    assert found.head() is not None


def test_every_query_is_shown_with_its_output() -> None:
    """A block without the text block after it would escape the test above."""
    assert len(EXAMPLES) == DOCUMENT.read_text(encoding="utf-8").count("```sql\n")


def test_ten_questions_are_answered_in_order() -> None:
    """As the introduction promises."""
    assert [int(number) for number in QUESTION.findall(DOCUMENT.read_text(encoding="utf-8"))] == list(range(1, 11))


@pytest.mark.parametrize(("output", "columns"), [("a   b\n--  -\n 1  x\n", ["a", "b"]), ("  n\n---\n 12\n(1 row)\n", ["n"])])
def test_columns_are_read_from_the_rule_below_the_header(output: str, columns: list[str]) -> None:
    """Numbers stand right, so the header's own spaces don't tell."""
    assert printed_columns(output) == columns
