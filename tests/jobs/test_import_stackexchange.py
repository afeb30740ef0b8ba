"""import_stackexchange: what a dump becomes, what may not leave it, and what it refuses."""

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from jobs import import_stackexchange, stackexchange_dump
from jobs.endings import words_of
from jobs.errors import BadInput, Infrastructure
from jobs.import_stackexchange import Imported
from jobs.raw_input import needed_columns
from jobs.stackexchange_dump import ALLOWED, XmlRows
from jobs.stackexchange_rows import COLUMNS, split_tags
from schemas.catalog_files import load_catalog

REPOSITORY = Path(__file__).resolve().parents[2]
CATALOG = REPOSITORY / "examples" / "stackexchange"
REAL_DUMP = REPOSITORY.parent / "shared" / "data" / "beer.stackexchange.com"

ROWS = {
    "Posts": [
        '<row Id="1" PostTypeId="1" AcceptedAnswerId="777001" CreationDate="2014-01-21T20:00:00.100" Score="777002" ViewCount="777003" Body="canary body"'
        ' OwnerUserId="7" LastActivityDate="2016-09-09T00:00:00.000" Title="canary title" Tags="&lt;canary&gt;" AnswerCount="777005" />',
        '<row Id="2" PostTypeId="2" ParentId="1" CreationDate="2014-01-22T08:00:00.000" Score="777006" Body="canary answer" OwnerUserId="8" />',
        '<row Id="3" PostTypeId="2" ParentId="1" CreationDate="2014-01-22T09:00:00.000" Body="canary orphan" OwnerDisplayName="canary name" />',
    ],
    "PostHistory": [
        '<row Id="1" PostHistoryTypeId="2" PostId="1" RevisionGUID="canary-guid" CreationDate="2014-01-21T20:00:00.100" UserId="7" Text="Why?&#xA;So." />',
        '<row Id="2" PostHistoryTypeId="1" PostId="1" CreationDate="2014-01-21T20:00:00.100" UserId="7" Text="First title" />',
        '<row Id="3" PostHistoryTypeId="3" PostId="1" CreationDate="2014-01-21T20:00:00.100" UserId="7" Text="&lt;hops&gt;&lt;ale&gt;" />',
        '<row Id="4" PostHistoryTypeId="2" PostId="2" CreationDate="2014-01-22T08:00:00.000" UserId="8" Text="Because" Comment="canary comment" />',
        '<row Id="5" PostHistoryTypeId="2" PostId="3" CreationDate="2014-01-22T09:00:00.000" Text="Nobody wrote this" />',
        '<row Id="6" PostHistoryTypeId="6" PostId="1" CreationDate="2014-02-01T00:00:00.000" UserId="8" Text="&lt;ipa&gt;&lt;hops&gt;" />',
        '<row Id="7" PostHistoryTypeId="10" PostId="1" CreationDate="2014-02-01T00:00:00.000" UserId="8" Text="{canary}" />',
        '<row Id="8" PostHistoryTypeId="5" PostId="2" CreationDate="2014-02-01T00:00:00.000" UserId="-1" Text="by the bot" />',
    ],
    "Comments": [
        '<row Id="1" PostId="2" Score="777007" Text="Thanks" CreationDate="2014-01-22T10:00:00.000" UserId="8" />',
        '<row Id="2" PostId="99" Score="0" Text="On a deleted post" CreationDate="2014-01-22T11:00:00.000" UserId="7" />',
        '<row Id="3" PostId="2" Score="0" Text="Gone" CreationDate="2014-01-22T12:00:00.000" UserDisplayName="canary user" />',
    ],
    "Badges": ['<row Id="1" UserId="7" Name="Student" Date="2014-01-23T00:00:00.000" Class="3" TagBased="False" />'],
    "Users": [
        '<row Id="-1" Reputation="777008" CreationDate="2014-01-01T00:00:00.000" />',
        '<row Id="7" Reputation="777009" CreationDate="2014-01-21T19:30:00.000" LastAccessDate="2016-09-09T00:00:00.000" Location="canary" UpVotes="777010" />',
        '<row Id="8" CreationDate="2014-01-22T07:00:00.000" DownVotes="777011" Age="777012" />',
    ],
}


def file_text(name: str, rows: list[str], prolog: str = "") -> str:
    root = name.lower()
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?>\n{prolog}<{root}>\n' + "\n".join(rows) + f"\n</{root}>\n"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    folder = tmp_path / "dump"
    folder.mkdir()
    for name, rows in ROWS.items():
        (folder / f"{name}.xml").write_text(file_text(name, rows), encoding="utf-8")
    return folder


def read(out: Path, source: str) -> list[dict[str, Any]]:
    rows = ds.dataset(out / source, partitioning="hive").to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["created_at"], row["user_id"]))


def refused(dump: Path, out: Path) -> str:
    """The message of the refusal; nothing is left behind."""
    with pytest.raises(BadInput) as caught:
        import_stackexchange.run(dump, out)
    assert not out.exists()
    assert [child.name for child in out.parent.iterdir()] == [dump.name]
    return str(caught.value)


def test_a_question_has_the_words_of_its_first_revision(dump: Path, tmp_path: Path) -> None:
    """Title, body and tags as first asked, by the post's owner, on that day."""
    import_stackexchange.run(dump, tmp_path / "out")
    (row,) = read(tmp_path / "out", "questions")
    assert (row["user_id"], row["delivered_ds"], row["title"], row["tags"], row["main_tag"]) == ("7", "2014-01-21", "First title", "hops, ale", "hops")
    assert (row["body"], row["body_chars"], row["tag_count"]) == ("Why?\nSo.", 8, 2)


def test_an_answer_a_comment_and_an_edit_carry_the_question_s_first_tag(dump: Path, tmp_path: Path) -> None:
    """The later edit of the tags changes nothing before, and appears on its own day."""
    import_stackexchange.run(dump, tmp_path / "out")
    (answer,) = read(tmp_path / "out", "answers")
    comment, orphan = read(tmp_path / "out", "comments")
    (edit,) = read(tmp_path / "out", "edits")
    assert (answer["body"], answer["main_tag"]) == ("Because", "hops")
    assert (comment["post_type"], comment["own_post"], comment["main_tag"]) == ("answer", True, "hops")
    assert (orphan["post_type"], orphan["own_post"], orphan["main_tag"]) == (None, None, None)
    assert (edit["delivered_ds"], edit["part"], edit["text"], edit["text_chars"], edit["main_tag"]) == ("2014-02-01", "tags", "ipa, hops", 9, "hops")


def test_a_profile_is_delivered_on_the_day_of_joining(dump: Path, tmp_path: Path) -> None:
    """Nothing but the moment of joining is known of a user."""
    import_stackexchange.run(dump, tmp_path / "out")
    first, second = read(tmp_path / "out", "profile")
    assert (first["user_id"], first["delivered_ds"], first["joined_weekday"], first["joined_hour"]) == ("7", "2014-01-21", "Tue", 19)
    assert (second["joined_month"], second["joined_day"]) == ("2014-01", 16092)


def test_nothing_outside_the_allowlist_leaves_the_dump(dump: Path, tmp_path: Path) -> None:
    """Scores, accepted answers, views, names, current texts: no value of theirs is in any file."""
    import_stackexchange.run(dump, tmp_path / "out")
    written = "\n".join(str(row) for source in COLUMNS for row in read(tmp_path / "out", source))
    assert "7770" not in written
    assert "canary" not in written
    assert "2016-09-09" not in written


def test_every_row_is_written_or_left_out_with_its_reason(dump: Path, tmp_path: Path) -> None:
    """Rows of each file in = rows out + rows left out."""
    imported = import_stackexchange.run(dump, tmp_path / "out")
    assert {name: sum(counts.values()) for name, counts in imported.outcomes.items()} == {name: len(rows) for name, rows in ROWS.items()}
    assert imported.outcomes["Posts"] == {"questions": 1, "answers": 1, "no user": 1}
    assert imported.outcomes["PostHistory"] == {"first revisions": 4, "no user": 1, "edits": 1, "neither text nor tags": 1, "the site's bot": 1}
    assert imported.rows == {"questions": 1, "answers": 1, "comments": 2, "edits": 1, "badges": 1, "profile": 2}
    assert imported.rows == {source: len(read(tmp_path / "out", source)) for source in COLUMNS}
    assert imported.lines()[0].startswith("8 rows from 2014-01-21 to 2014-02-01 in ")


def test_the_example_catalog_reads_what_the_import_writes(dump: Path, tmp_path: Path) -> None:
    """Every raw column that the catalog names is written, and no other."""
    import_stackexchange.run(dump, tmp_path / "out")
    for source in load_catalog(CATALOG).sources:
        names = ds.dataset(tmp_path / "out" / source.input.path, partitioning="hive").schema.names
        assert set(needed_columns(source)) == set(names), source.name


def test_a_source_without_rows_has_an_empty_file(dump: Path, tmp_path: Path) -> None:
    """So that it can be read as delivered."""
    (dump / "Badges.xml").write_text(file_text("Badges", []), encoding="utf-8")
    import_stackexchange.run(dump, tmp_path / "out")
    (file,) = (tmp_path / "out" / "badges").rglob("*.parquet")
    assert (pq.read_metadata(file).num_rows, file.parent.name) == (0, "delivered_ds=2014-01-21")


def test_newer_dumps_write_tags_between_bars() -> None:
    """Both spellings give the same tags."""
    assert split_tags("|hops|ale|") == split_tags("<hops><ale>") == ["hops", "ale"]


def test_an_answer_under_a_younger_question_has_no_tag(dump: Path, tmp_path: Path) -> None:
    """After a merge the question can be younger than its answer: its tag was not known then."""
    late = [row.replace("2014-01-22T08", "2014-01-20T08") for row in ROWS["PostHistory"]]
    (dump / "PostHistory.xml").write_text(file_text("PostHistory", late), encoding="utf-8")
    import_stackexchange.run(dump, tmp_path / "out")
    (answer,) = read(tmp_path / "out", "answers")
    assert (answer["delivered_ds"], answer["main_tag"]) == ("2014-01-20", None)


@pytest.mark.parametrize("limit", [import_stackexchange.MAX_PENDING, 0])
def test_a_question_with_a_part_missing_is_written_without_it(dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """At the end of the file, or as soon as too many wait; a part that comes later is counted as repeated."""
    monkeypatch.setattr(import_stackexchange, "MAX_PENDING", limit)
    rows = ROWS["PostHistory"] if limit == 0 else [row for row in ROWS["PostHistory"] if 'PostHistoryTypeId="3"' not in row]
    (dump / "PostHistory.xml").write_text(file_text("PostHistory", rows), encoding="utf-8")
    imported = import_stackexchange.run(dump, tmp_path / "out")
    (question,) = read(tmp_path / "out", "questions")
    assert (question["body"], question["tags"], question["tag_count"]) == ("Why?\nSo.", None, 0)
    assert imported.outcomes["PostHistory"].get("repeated first revision", 0) == (2 if limit == 0 else 0)


def test_days_and_rows_do_not_depend_on_the_buffer(dump: Path, tmp_path: Path) -> None:
    """A buffer of no bytes writes more files of the same rows."""
    whole = import_stackexchange.run(dump, tmp_path / "whole")
    small = import_stackexchange.run(dump, tmp_path / "small", buffer_bytes=0)
    assert small.rows == whole.rows
    assert small.files > whole.files
    assert all(read(tmp_path / "small", source) == read(tmp_path / "whole", source) for source in COLUMNS)


BOMB = '<!DOCTYPE posts [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>\n'


@pytest.mark.parametrize(
    "prolog", ["<!DOCTYPE posts>\n", BOMB, '<!DOCTYPE posts [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n', '<!DOCTYPE posts SYSTEM "http://x/y.dtd">\n']
)
def test_a_document_type_is_refused(dump: Path, tmp_path: Path, prolog: str) -> None:
    """Without it there is no entity to expand or to fetch."""
    (dump / "Posts.xml").write_text(file_text("Posts", ['<row Id="1" PostTypeId="&c;" />'], prolog), encoding="utf-8")
    message = refused(dump, tmp_path / "out")
    assert message.startswith(f"{dump / 'Posts.xml'}, line 2: found a document type (posts), expected none, and so no entities")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (file_text("Comments", ['<row Id="1" Text="&c;" />']), "line 3: found malformed XML (undefined entity)"),
        (file_text("Comments", ROWS["Comments"])[:-14], "line 5: found malformed XML (unclosed token)"),
        (file_text("Comments", ['<row Id="1"', '<row Id="2" />']), "line 4: found malformed XML (not well-formed (invalid token))"),
        (file_text("Comments", []) + "\ud800", "found malformed XML (not well-formed (invalid token))"),
        ("", "line 1: found malformed XML (no element found)"),
        (file_text("Tags", []), "line 2: found <tags>, expected <comments>"),
        (file_text("Comments", ["<column />"]), "line 3: found <column>, expected <row>"),
        (file_text("Comments", ["<row><b/></row>"]), "line 3: found <b>, expected rows without content"),
        (file_text("Comments", [ROWS["Comments"][0].replace('PostId="2"', 'PostId="two"')]), "line 3: found PostId='two', expected a whole number"),
        (file_text("Comments", [ROWS["Comments"][0].replace('PostId="2"', "")]), "line 3: found PostId=None, expected a whole number"),
        (file_text("Comments", [ROWS["Comments"][0].replace("T10:", " at ")]), "expected a UTC time such as 2014-01-21T20:26:05.383"),
        (
            file_text("Comments", [ROWS["Comments"][0].replace("01-22", "02-30")]),
            "line 3: found CreationDate='2014-02-30T10:00:00.000', expected a time that exists",
        ),
    ],
)
def test_a_file_that_is_no_dump_s_is_refused_with_its_line(dump: Path, tmp_path: Path, content: str, expected: str) -> None:
    """And nothing of the files before it stays."""
    (dump / "Comments.xml").write_text(content, encoding="utf-8", errors="surrogatepass")
    message = refused(dump, tmp_path / "out")
    assert message.startswith(f"{dump / 'Comments.xml'}, line ")
    assert expected in message


def test_a_log_keeps_no_value_of_a_dump(dump: Path, tmp_path: Path) -> None:
    """The person sees it on the screen."""
    (dump / "Comments.xml").write_text(file_text("Comments", [ROWS["Comments"][0].replace('PostId="2"', 'PostId="canary"')]))
    with pytest.raises(BadInput, match="PostId='canary'") as caught:
        import_stackexchange.run(dump, tmp_path / "out")
    assert words_of(caught.value).startswith(f"{dump / 'Comments.xml'}, line 3: found another PostId, expected a whole number")


def test_a_row_that_does_not_end_is_refused(dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one attribute could fill the memory."""
    monkeypatch.setattr(stackexchange_dump, "MAX_ROW_BYTES", 100_000)
    (dump / "Comments.xml").write_text(file_text("Comments", [f'<row Id="1" Text="{"x" * 300_000}" />']), encoding="utf-8")
    assert "found a row that does not end, expected rows of at most 100,000 bytes" in refused(dump, tmp_path / "out")


def test_missing_files_are_all_named(dump: Path, tmp_path: Path) -> None:
    """Before anything is read."""
    (dump / "PostHistory.xml").unlink()
    (dump / "Users.xml").unlink()
    assert f"{dump}: no PostHistory.xml, Users.xml, expected the files of a site's dump" in refused(dump, tmp_path / "out")


def test_a_dump_of_nobody_is_refused(dump: Path, tmp_path: Path) -> None:
    """No rows is no input."""
    for name in ROWS:
        (dump / f"{name}.xml").write_text(file_text(name, []), encoding="utf-8")
    assert "no row of a known user in it" in refused(dump, tmp_path / "out")


def test_a_folder_in_use_is_refused(dump: Path, tmp_path: Path) -> None:
    """What is there stays as it is."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="exists already, expected a new folder"):
        import_stackexchange.run(dump, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_out_that_cannot_be_made_is_infrastructure(dump: Path, tmp_path: Path) -> None:
    """A file stands where the parent folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Infrastructure, match="room to write"):
        import_stackexchange.run(dump, tmp_path / "file" / "out")


def test_a_row_without_an_outcome_stops_the_import(dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's own count is compared with the outcomes."""
    monkeypatch.setattr(import_stackexchange.Posts, "outcomes", lambda _: Counter({"questions": 1}))
    with pytest.raises(RuntimeError, match=r"Posts\.xml: 3 rows, outcomes .* a row was lost or doubled"):
        import_stackexchange.run(dump, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_row_that_is_not_written_stops_the_import(dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows in the files are compared with the outcomes."""
    add = import_stackexchange.DayFiles.add
    monkeypatch.setattr(import_stackexchange.DayFiles, "add", lambda sink, record: None if "comment_id" in record else add(sink, record))
    with pytest.raises(RuntimeError, match=r"'comments': 0.* rows written, expected .*'comments': 2"):
        import_stackexchange.run(dump, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def peak_bytes(folder: Path, rows: int) -> int:
    """Peak of Python's memory while a dump with so many comments, of 200 days, is imported through a small buffer."""
    dump = folder / "dump"
    dump.mkdir(parents=True)
    for name in ROWS:
        (dump / f"{name}.xml").write_text(file_text(name, [] if name == "Comments" else ROWS[name]), encoding="utf-8")
    with (dump / "Comments.xml").open("w", encoding="utf-8") as stream:
        stream.write("<comments>\n")
        stream.writelines(line(n, rows) for n in range(rows))
        stream.write("</comments>\n")
    tracemalloc.start()
    try:
        assert import_stackexchange.run(dump, folder / "out", buffer_bytes=200_000).rows["comments"] == rows
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def line(n: int, rows: int) -> str:
    month, day = divmod(n * 200 // rows, 28)
    return f'<row Id="{n + 1}" PostId="2" Text="{"word " * 40}{n}" CreationDate="2014-{month + 1:02d}-{day + 1:02d}T00:00:00.000" UserId="7" />\n'


def test_memory_does_not_grow_with_the_dump(tmp_path: Path) -> None:
    """Eight times the rows: the same peak, within a fifth."""
    assert peak_bytes(tmp_path / "large", 32_000) < 1.2 * peak_bytes(tmp_path / "small", 4_000)


def test_only_allowed_attributes_are_read(dump: Path) -> None:
    """The reader itself drops the rest, so no transform can see it."""
    for name, allowed in ALLOWED.items():
        rows: Iterator[Any] = iter(XmlRows(dump / f"{name}.xml"))
        assert all(set(row.values) <= set(allowed) for row in rows)


def test_the_summary_has_every_field(dump: Path, tmp_path: Path) -> None:
    """One line a file, after the headline."""
    imported = import_stackexchange.run(dump, tmp_path / "out")
    assert {f.name for f in fields(Imported)} == {"rows", "outcomes", "files", "first", "last"}
    assert imported.lines()[1] == "Posts.xml: answers 1, no user 1, questions 1"
    assert len(imported.lines()) == 1 + len(ROWS)


@pytest.mark.skipif(not REAL_DUMP.is_dir(), reason=f"the real dump is not at {REAL_DUMP}")
def test_a_real_dump_is_imported_whole(tmp_path: Path) -> None:
    """beer.stackexchange.com of December 2016: counts taken from its files by grep."""
    imported = import_stackexchange.run(REAL_DUMP, tmp_path / "out")
    assert sum(imported.outcomes["PostHistory"].values()) == 5093
    assert sum(imported.outcomes["Posts"].values()) == 2106
    assert imported.rows == {"questions": 588, "answers": 1393, "comments": 1821, "edits": 1004, "badges": 5571, "profile": 3947}
    assert (str(imported.first), str(imported.last)) == ("2014-01-21", "2016-12-11")
