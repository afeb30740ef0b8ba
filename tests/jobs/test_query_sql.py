"""Reading SQL: what is let through, how it is written out, what is said when it fails."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import query_sql
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.endings import words_of
from jobs.errors import BadInput
from schemas.catalog import Catalog
from tests.conftest import REPOSITORY

Ask = Callable[[str], str]

WRITING = {
    "insert": "INSERT INTO words SELECT 3, 'c'",
    "insert behind a CTE": "WITH x AS (SELECT 3 AS id, 'c' AS word) INSERT INTO words SELECT * FROM x",
    "two inserts": "FROM words INSERT INTO words SELECT id, word INSERT INTO words SELECT id, word",
    "insert into a folder": "INSERT OVERWRITE DIRECTORY '/tmp/u2qt-never' USING parquet SELECT 1",
    "delete": "DELETE FROM words",
    "update": "UPDATE words SET word = 'x'",
    "merge": "MERGE INTO words a USING words b ON a.id = b.id WHEN MATCHED THEN DELETE",
    "drop": "DROP TABLE words",
    "drop view": "DROP VIEW words",
    "alter": "ALTER VIEW words RENAME TO other",
    "create as": "CREATE TABLE other AS SELECT 1 AS a",
    "create view": "CREATE TEMPORARY VIEW other AS SELECT 1 AS a",
    "drop by hidden text": "EXECUTE IMMEDIATE 'DROP VIEW words'",
    "restore": "RESTORE TABLE words TO VERSION AS OF 0",
    "vacuum": "VACUUM words",
    "optimize": "OPTIMIZE words",
    "truncate": "TRUNCATE TABLE words",
    "shell command": "SELECT TRANSFORM(word) USING 'cat' FROM words",
    "setting": "SET spark.sql.ansi.enabled = false",
    "explained insert": "EXPLAIN INSERT INTO words SELECT 3, 'c'",
}
READING = {
    "select": "SELECT count(*) FROM words",
    "trailing semicolon": "SELECT count(*) FROM words;",
    "comment with a semicolon": "SELECT count(*) FROM words -- ; DROP VIEW words",
    "cte": "WITH x AS (SELECT * FROM words) SELECT max(id) FROM x",
    "subquery": "SELECT word FROM words WHERE id = (SELECT max(id) FROM words)",
    "set operations": "(SELECT id FROM words UNION ALL SELECT id FROM words) INTERSECT SELECT 1",
    "grouping": "SELECT word, count(*) FROM words GROUP BY word HAVING count(*) > 0 ORDER BY ALL LIMIT 1 OFFSET 0",
    "window": "SELECT rank() OVER w FROM words WINDOW w AS (ORDER BY id)",
    "joins": "SELECT * FROM words a LEFT JOIN words b ON a.id = b.id, LATERAL (SELECT a.id + 1)",
    "generator": "SELECT id, c FROM words LATERAL VIEW explode(array(1, 2)) AS c",
    "table function": "SELECT * FROM range(3) AS r(n)",
    "pivot": "SELECT * FROM words PIVOT (max(id) FOR word IN ('a', 'b'))",
    "unpivot": "SELECT * FROM (SELECT id, id AS j FROM words) UNPIVOT (v FOR k IN (id, j))",
    "values": "VALUES (1), (2)",
    "pipe": "FROM words |> WHERE id = 1 |> SELECT word",
    "sample and hint": "SELECT /*+ BROADCAST(w) */ DISTINCT id FROM words TABLESAMPLE (50 PERCENT) w",
    "show": "SHOW TABLES",
    "describe": "DESCRIBE words",
    "describe query": "DESCRIBE QUERY SELECT 1 AS a",
    "explain": "EXPLAIN SELECT * FROM words",
}


@pytest.fixture
def words(spark: SparkSession, default_catalog: Catalog, tmp_path: Path) -> Context:
    """A session with one view; no lakehouse is needed to read it."""
    spark.sql("SELECT * FROM VALUES (1, 'a'), (2, 'b') AS t(id, word)").createOrReplaceTempView("words")
    lake = Lakehouse(spark, str(tmp_path))
    return Context(spark=spark, lake=lake, catalog=default_catalog, input_root="", run_id="r")


@pytest.fixture
def ask(words: Context) -> Ask:
    return lambda text: "".join(query_sql.render(query_sql.run(words, text), "table"))


@pytest.mark.parametrize("text", WRITING.values(), ids=WRITING)
def test_writing_statements_are_refused_before_they_run(words: Context, text: str) -> None:
    """The parsed plan decides, so no spelling gets past."""
    with pytest.raises(BadInput, match="expected one SELECT, WITH, SHOW, DESCRIBE or EXPLAIN"):
        query_sql.run(words, text)
    assert words.spark.table("words").count() == 2


@pytest.mark.parametrize("text", READING.values(), ids=READING)
def test_reading_statements_pass(ask: Ask, text: str) -> None:
    """Every kind of query an analyst writes gives rows."""
    assert "row" in ask(text).splitlines()[-1]


@pytest.mark.parametrize("text", ["SELECT 1; SELECT 2", "SELECT 1; DROP VIEW words", "", "  -- nothing"])
def test_other_than_one_statement_is_refused(words: Context, text: str) -> None:
    """Spark's parser takes one statement, and says where the second begins."""
    with pytest.raises(BadInput, match=r"sql: .*PARSE"):
        query_sql.run(words, text)


def test_an_unknown_column_is_answered_with_sparks_first_line_and_what_there_is(words: Context) -> None:
    """One line of Spark's message, then the tables and views; nothing is logged beside it."""
    with pytest.raises(BadInput) as caught:
        query_sql.run(words, "SELECT wrod FROM words")
    first, second = str(caught.value).splitlines()
    assert first.startswith("sql: [UNRESOLVED_COLUMN")
    assert "wrod" in first
    assert second.startswith("Tables and views: ")
    assert "words" in second


def test_data_that_make_a_statement_fail_are_bad_input(words: Context, capfd: pytest.CaptureFixture[str]) -> None:
    """Division by zero on an executor, in the middle of the stream, and without Spark's page of JSON on stderr."""
    with pytest.raises(BadInput, match="DIVIDE_BY_ZERO"):
        list(query_sql.render(query_sql.run(words, "SELECT 1 / (id - 2) FROM words"), "csv"))
    assert "SQLQueryContextLogger" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("SELECT CAST('canary' AS INT)", "sql: [CAST_INVALID_INPUT]"),
        ("SELECT id FROM words WHERE wrod = 'canary'", "sql: [UNRESOLVED_COLUMN.WITH_SUGGESTION]"),
        ("SELECT id FROM words WHERE 'canary' 'canary' id", "sql: [PARSE_SYNTAX_ERROR]"),
        ("SELECT raise_error('canary')", "sql: [USER_RAISED_EXCEPTION]"),
        ("SELECT map('canary', 1, 'canary', 2)", "sql: [DUPLICATED_MAP_KEY]"),
        ("SELECT sequence(1, 3000000000)", "sql: [COLLECTION_SIZE_LIMIT_EXCEEDED.PARAMETER]"),
    ],
)
def test_a_log_keeps_the_error_s_name_and_nothing_that_it_quotes(words: Context, text: str, kept: str) -> None:
    """The person sees Spark's line; a value or a statement in it may name a user."""
    with pytest.raises(BadInput) as caught:
        list(query_sql.render(query_sql.run(words, text), "table"))
    assert words_of(caught.value) == kept


def test_a_statement_may_raise_by_itself(words: Context) -> None:
    """assert_true and raise_error are the statement's word, not a bug."""
    with pytest.raises(BadInput, match="USER_RAISED_EXCEPTION"):
        list(query_sql.render(query_sql.run(words, "SELECT assert_true(id < 0) FROM words"), "table"))


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    """As `| head` has."""
    code = "from jobs.cli_options import write_pieces; write_pieces('x' * 1000 for _ in range(1000))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"x"
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_csv_quotes_what_needs_it_and_changes_nothing(words: Context) -> None:
    """Quotes, commas, line ends and formula signs come back through csv.reader as they were; NULL is empty."""
    odd = r"""
        SELECT '=1+1' AS formula, 'a"b,c' AS quotes, 'x\ny' AS lines, CAST(NULL AS INT) AS nothing,
               array(1, NULL) AS codes, named_struct('a', 1) AS s, X'00FF' AS bytes
    """
    text = "".join(query_sql.render(query_sql.run(words, odd), "csv"))
    assert list(csv.reader(io.StringIO(text))) == [
        ["formula", "quotes", "lines", "nothing", "codes", "s", "bytes"],
        ["=1+1", 'a"b,c', "x\ny", "", "[1,null]", '{"a":1}', "00FF"],
    ]


def test_json_is_one_object_a_line_with_nulls_kept(words: Context) -> None:
    """Every line parses by itself."""
    text = "".join(query_sql.render(query_sql.run(words, "SELECT id, array(id) AS codes, CAST(NULL AS STRING) AS `a``b` FROM words ORDER BY id"), "json"))
    assert [json.loads(line) for line in text.splitlines()] == [
        {"id": 1, "codes": [1], "a`b": None},
        {"id": 2, "codes": [2], "a`b": None},
    ]


def test_repeated_names_are_fine_in_csv_and_refused_in_json(words: Context) -> None:
    """An object can't hold a name twice."""
    df = query_sql.run(words, "SELECT 1 AS a, 2 AS a")
    assert "".join(query_sql.render(df, "csv")) == "a,a\n1,2\n"
    with pytest.raises(BadInput, match="names a more than once"):
        list(query_sql.render(df, "json"))


def test_a_table_is_aligned_and_says_how_many_rows(ask: Ask) -> None:
    """Numbers stand right, text left; wide characters count two."""
    assert ask("SELECT * FROM VALUES (1, '漢字', NULL), (20, 'ab', 'x') AS t(n, word, other)").splitlines() == [
        " n  word  other",
        "--  ----  -----",
        " 1  漢字  NULL",
        "20  ab    x",
        "(2 rows)",
    ]


def test_a_long_result_is_cut_and_the_table_says_so(words: Context) -> None:
    """The reader learns that there is more, and how to get it."""
    lines = "".join(query_sql.render(query_sql.run(words, "SELECT id FROM range(50)"), "table", 3)).splitlines()
    assert len(lines) == 6
    assert lines[-1].startswith("(3 rows shown, there are more")


def test_terminal_control_characters_are_shown_not_obeyed() -> None:
    """An escape sequence in a text must not move an analyst's cursor; long values end in an ellipsis."""
    assert query_sql.shown("\x1b[2Ja\nb\u202e") == "\\x1b[2Ja\\nb\\u202e"
    assert query_sql.shown("x" * 60) == "x" * 60
    assert query_sql.shown("x" * 61) == "x" * 59 + "…"
    assert query_sql.shown("漢" * 1000) == "漢" * 29 + "…"


def test_an_unknown_format_is_refused(words: Context) -> None:
    """The message lists the formats."""
    with pytest.raises(BadInput, match="expected one of table, csv, json"):
        list(query_sql.render(query_sql.run(words, "SELECT 1"), "xml"))  # type: ignore[arg-type]
