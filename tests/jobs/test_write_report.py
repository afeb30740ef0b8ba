"""The report of a literal day, with canaries where ids and content are."""

import html.parser
import json
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import write_report
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.errors import BadInput, Infrastructure
from jobs.ledger import RUNS_SCHEMA
from jobs.report_model import DayReport
from schemas.catalog import Catalog, Source
from u2qt_model.vocabulary import Vocabulary

DS, BLOCKED, EMPTY = date(2026, 1, 14), date(2026, 1, 15), date(2026, 1, 16)
CANARY = "canary<script>alert(1)</script>"
NOON = datetime(2026, 1, 15, 4, 30, tzinfo=UTC)
SOURCES = ("bill", "mini_program", "spm", "app", "search", "profile")
LEVELS = [{"level": level, "shared_size": 4 if level <= 2 else 0, "codebook_size": 4} for level in (1, 2, 3, 4)]
LAYOUT = json.dumps({"sources": [{"name": source, "levels": LEVELS} for source in SOURCES]})
DRIFT = {
    "compared_with": ["2026-01-13"],
    "note": "compared with 1 of 7 days",
    "measures": [
        {"gate": "code_usage", "source": "bill", "level": 2, "value": 0.3, "found": 1200, "usual": 800, "severity": "block"},
        {"gate": "users", "source": None, "level": None, "value": 0.01, "found": 3, "usual": 3, "severity": "ok"},
    ],
}
USERS = {  # user -> row hash, events per source
    f"user-{CANARY}": (11, {"bill": 2, "profile": 1}),
    "user-canary-2": (-22, {"bill": 1, "spm": 15}),
    "user-canary-3": (33, {"spm": 1}),
}
CODES = {
    f"user-{CANARY}": {"bill": [0, 1, 2, 3], "profile": [0, 0, 0, 0]},
    "user-canary-2": {"bill": [0, 1, 2, 2], "spm": [1, 1, 1, 1]},
    "user-canary-3": {"spm": [1, 2, 3, 0]},
}


def append(context: Context, table: str, rows: list[tuple[object, ...]]) -> None:
    frame = context.spark.createDataFrame(rows, context.lake.read(table).schema).coalesce(1)
    context.lake.append(table, frame, {})


def slice_of(source: Source, events: int) -> tuple[object, ...]:
    """A source's columns of user_features; the text is the canary and as long as it."""
    if source.kind == "profile":
        return (events, [0.0], [0])
    text = bytearray(CANARY.encode() if events else b"")
    return (text, events, [0], [0.0], [0])


def tokens(catalog: Catalog, version: str, codes: dict[str, dict[str, list[int]]]) -> list[tuple[object, ...]]:
    return [(user, DS, version, NOON, USERS[user][0], "r", *(codes[user].get(s.name) for s in catalog.sources)) for user in codes]


def fill(context: Context) -> None:
    """v1 is promoted and published for DS; v2 has a code outside and failed its audit. BLOCKED stopped at the gate."""
    catalog, note = context.catalog, json.dumps({"error": f"bill, {CANARY}: blocked"})
    append(
        context,
        "deliveries",
        [
            ("bill", DS, "d1", 1234, 1230, 3, 1, "passed", "r", None, None),
            ("bill", DS, "d2", 2, 2, 0, 0, "passed", "r", None, None),
            ("spm", DS, "d3", 40, 38, 2, 0, "passed", "r", None, None),
            ("bill", BLOCKED, "d4", 0, 0, 0, 0, "blocked", "r", None, None),
        ],
    )
    reasons = (["null:user_id"], ["null:user_id", "range:amount"], ["range:amount", "null:user_id"])
    append(context, "quarantine_bill", [("d1", DS, codes, {"uid": CANARY}, "r") for codes in reasons])
    append(
        context,
        "user_features",
        [
            (
                bytearray(user.encode()),
                DS,
                *(f for s in catalog.sources for f in slice_of(s, events.get(s.name, 0))),
                NOON,
                row_hash,
                "r",
            )
            for user, (row_hash, events) in USERS.items()
        ],
    )
    for version in ("v1", "v2"):
        append(
            context,
            "tokenizers",
            [
                (
                    version,
                    f"fingerprint-{version}",
                    "/c",
                    DS,
                    DS,
                    LAYOUT,
                    "{}",
                    None,
                    "r",
                )
            ],
        )
    append(context, "promotions", [(1, "v1", "first", None, None, "r")])
    outside = {**CODES, "user-canary-3": {"spm": [1, 2, 3, 9]}}
    append(context, "staged_user_tokens", tokens(catalog, "v1", CODES) + tokens(catalog, "v2", outside))
    append(context, "user_tokens", tokens(catalog, "v1", CODES))
    failures = [{"expectation": "codes_in_range", "unexpected_count": 1, "partial_unexpected_list": [CANARY]}]
    append(
        context,
        "audits",
        [
            (DS, "v1", 1, "suite", True, 9, 3, "[]", json.dumps(DRIFT), True, NOON, None, "r"),
            (DS, "v2", 1, "suite", True, 9, 3, "[]", None, None, None, None, "r"),
            (DS, "v2", 2, "suite", False, 9, 3, json.dumps(failures), None, None, None, None, "r"),
        ],
    )
    runs = [
        (
            "validate_sources",
            DS,
            DS,
            "done",
            {"rows_in": 1276, "bill.rows_in": 1236},
            {},
            {},
            61.0,
            NOON,
            None,
            "run-a",
        ),
        ("validate_sources", BLOCKED, BLOCKED, "refused", {}, {}, {}, 1.5, NOON, note, "run-b"),
    ]
    context.lake.append("runs", context.spark.createDataFrame([(*row, None) for row in runs], RUNS_SCHEMA).coalesce(1), {})


@pytest.fixture(scope="module")
def filled(spark: SparkSession, default_catalog: Catalog, empty_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    root = tmp_path_factory.mktemp("report") / "lake"
    shutil.copytree(empty_lake, root)
    lake = Lakehouse(spark, str(root))
    context = Context(spark=spark, lake=lake, catalog=default_catalog, input_root="", run_id="test-run")
    fill(context)
    return context


@pytest.fixture(scope="module")
def report(filled: Context) -> DayReport:
    return write_report.day_report(filled, DS)


@pytest.fixture(scope="module")
def page(filled: Context, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report.run(filled, DS, tmp_path_factory.mktemp("out") / "new" / "day.html").read_text(encoding="utf-8")


class Checker(html.parser.HTMLParser):
    """Every opened element is closed in order; collects tags and attributes."""

    VOID = frozenset({"meta", "br", "stop", "rect", "path", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}>"


def test_the_page_is_whole_html_that_loads_nothing(page: str) -> None:
    """No script, no address, no resource: it opens without a network."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    assert {"html", "svg", "table", "title"} <= checker.tags
    assert not checker.tags & {"script", "link", "img", "iframe", "object", "use", "image", "base", "form"}
    assert not {name for name, _ in checker.attributes} & {"src", "href", "xlink:href", "srcset", "action"}
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page.replace("url(#turn)", "")
    assert "@import" not in page


@pytest.mark.parametrize(("ds", "version"), [(DS, None), (DS, "v2"), (BLOCKED, None)])
def test_no_user_id_and_no_content_reach_the_page(filled: Context, tmp_path: Path, ds: date, version: str | None) -> None:
    """Not from texts, ids, quarantined rows or failures; a ledger's error is shown, as text and never as markup."""
    text = write_report.run(filled, ds, tmp_path / "day.html", version).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "user-canary" not in text
    assert text.count("canary") == (1 if ds == BLOCKED else 0)


def test_the_numbers_are_those_of_the_tables(report: DayReport, page: str) -> None:
    """Deliveries of one source add up; counts of users are those of their tables."""
    bill = report.deliveries[0]
    assert (bill.rows_in, bill.clean, bill.quarantined, bill.duplicates, bill.blocked) == (1236, 1232, 3, 1, False)
    assert bill.reasons == (("null:user_id", 3), ("range:amount", 2))
    assert [report.total(name) for name in ("rows_in", "clean", "quarantined", "duplicates")] == [1276, 1270, 5, 1]
    assert (report.users, report.encoded, report.published) == (3, 3, 3)
    for shown in (
        "1,276",
        "1,270",
        "1,236",
        "null:user_id",
        "fingerprint-v1",
        "1 min 01 s",
        "run-a",
        "2026-01-15 04:30:00",
    ):
        assert shown in page
    assert "bill.rows_in" not in page


def test_activity_counts_users_and_events(report: DayReport) -> None:
    """Fifteen events lie in the open bin; a source that nobody used has zeros."""
    activity = {a.source: a for a in report.activity}
    assert (activity["bill"].users, activity["bill"].events, activity["bill"].histogram[:2]) == (2, 3, (1, 1))
    assert (activity["spm"].users, activity["spm"].histogram[-1]) == (2, 1)
    assert (activity["app"].users, sum(activity["app"].histogram)) == (0, 0)


def test_codebook_usage_is_per_source_and_level(report: DayReport) -> None:
    """Of four codes bill uses one on level 1 and two, equally often, on level 4."""
    usage = {(u.source, u.level): u for u in report.usage}
    assert len(usage) == 6 * 4
    assert report.usage_table == "user_tokens"
    first, last = usage["bill", 1], usage["bill", 4]
    assert (first.used, first.dead, first.slices, first.sharing, first.top_share) == (1, 3, 2, "shared", 1.0)
    assert (last.used, last.dead, last.sharing, last.curve) == (2, 2, "", (0.5, 0.5, 0.0, 0.0))
    assert (first.perplexity, last.perplexity) == (pytest.approx(1), pytest.approx(2))
    assert usage["search", 1].slices == 0


def test_samples_show_lengths_and_tokens(report: DayReport) -> None:
    """By row hash; only sources that the user used; a profile has no text."""
    assert [user.row_hash for user in report.samples] == ["ffffffffffffffea", "000000000000000b", "0000000000000021"]
    bill, profile = report.samples[1].slices
    assert (bill.source, bill.events, bill.characters) == ("bill", 2, len(CANARY))
    assert bill.tokens[2:] == ((2, "<bill_3_0002>"), (3, "<bill_4_0003>"))
    assert (profile.kind, profile.characters) == ("profile", None)


def test_a_failed_audit_is_shown_with_its_expectations(filled: Context, tmp_path: Path) -> None:
    """The newest audit counts; codes outside the codebook are counted apart; nothing was published."""
    report = write_report.day_report(filled, DS, "v2")
    assert report.audit is not None
    assert (report.audit.success, report.audit.staged_version, report.audit.audits, report.published) == (
        False,
        2,
        2,
        0,
    )
    usage = {(u.source, u.level): u for u in report.usage}
    assert (usage["spm", 4].outside, usage["spm", 4].used) == (1, 1)
    text = write_report.run(filled, DS, tmp_path / "day.html", "v2").read_text(encoding="utf-8")
    for shown in ("Audit failed", "codes_in_range", "unexpected count 1", "1 codes outside", "not the promoted one"):
        assert shown in text


def test_drift_of_the_newest_audit_is_shown(filled: Context, page: str) -> None:
    """What warned or blocked and what could not be known; what was as usual is not."""
    report = write_report.day_report(filled, DS)
    assert report.audit is not None
    assert report.audit.blocked
    assert report.audit.drift == ("block code_usage of bill level 2: 0.300 (1,200, before 800)", "compared with 1 of 7 days")
    assert "block code_usage of bill level 2" in page
    assert "ok users" not in page


def test_a_blocked_day_has_a_page(filled: Context, tmp_path: Path) -> None:
    """It names the source and shows why, though no later stage ran."""
    text = write_report.run(filled, BLOCKED, tmp_path / "day.html").read_text(encoding="utf-8")
    assert "The gate blocked bill. Nothing was published." in text
    assert "No features were built for this day." in text


def test_the_same_lakehouse_gives_the_same_bytes(filled: Context, page: str, tmp_path: Path) -> None:
    """Writing a report leaves no row in the ledger and no clock on the page."""
    assert write_report.run(filled, DS, tmp_path / "day.html").read_text(encoding="utf-8") == page


def test_a_day_without_anything_is_refused(filled: Context, tmp_path: Path) -> None:
    """The message says what to run; no file appears."""
    with pytest.raises(BadInput, match=r"2026-01-16: nothing of this day .* `u2qt run-day --ds 2026-01-16"):
        write_report.run(filled, EMPTY, tmp_path / "day.html")
    assert not list(tmp_path.iterdir())


def test_an_unknown_tokenizer_is_refused(filled: Context, tmp_path: Path) -> None:
    """The message names it and those that are registered."""
    with pytest.raises(BadInput, match="tokenizer v9: not registered, registered are: v1, v2"):
        write_report.run(filled, DS, tmp_path / "day.html", "v9")


def test_a_place_that_can_not_be_written_is_refused(filled: Context, tmp_path: Path) -> None:
    """A folder is no file, and a file is no folder."""
    with pytest.raises(BadInput, match="found a folder"):
        write_report.run(filled, DS, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Infrastructure, match="can't be written"):
        write_report.run(filled, DS, tmp_path / "file" / "day.html")


def test_without_a_lakehouse_init_is_named(context: Context, tmp_path: Path) -> None:
    """As for every other command."""
    with pytest.raises(BadInput, match="u2qt init"):
        write_report.run(replace(context), DS, tmp_path / "day.html")


def test_token_names_are_the_vocabularys() -> None:
    """The page names tokens of codes that the vocabulary would refuse, and agrees on all others."""
    vocabulary = Vocabulary(sources=("bill", "spm"), shared_sizes=(4, 4, 0, 0), own_sizes=(0, 0, 4, 4))
    for source in vocabulary.sources:
        for position in range(4):
            name = write_report.token_name(source, position, 3, LEVELS)
            assert name == vocabulary.token_name(source, position + 1, 3)
    assert write_report.token_name("spm", 3, 9, LEVELS) == "<spm_4_0009>"
