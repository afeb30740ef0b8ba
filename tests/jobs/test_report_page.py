"""The page's words and numbers, from plain data."""

import json
from dataclasses import replace
from datetime import date, timedelta

import pytest

from jobs import report_page
from jobs.report_model import Audit, DayBar, DayReport, Delivery, LevelQuality, SourceQuality, TokenizerInfo

EMPTY = DayReport(
    ds=date(2026, 1, 14),
    catalog="six_sources",
    deliveries=(),
    users=0,
    activity=(),
    tokenizer=None,
    encoded=0,
    published=0,
    quality=(),
    usage=(),
    usage_table="staged_user_tokens",
    audit=None,
    samples=(),
    stages=(),
    table_versions=(),
)
TOKENIZER = TokenizerInfo(version="v1", fingerprint="ab", trained_from=date(2024, 1, 1), trained_through=date(2024, 1, 2), promoted=True)
FAILED = Audit(success=False, evaluated=9, rows=5, staged_version=3, suite_hash="ab", failures="[]", audits=1)
BLOCKED = Delivery(source="bill", rows_in=0, clean=0, quarantined=0, duplicates=0, blocked=True)


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(0, 0, "–"), (0, 9, "0%"), (1, 10_000, "<0.1%"), (9_999, 10_000, ">99.9%"), (10, 10, "100%"), (1, 8, "12.5%")],
)
def test_a_share_never_rounds_a_few_to_none(part: int, whole: int, shown: str) -> None:
    """Neither does it round nearly all to all."""
    assert report_page.share(part, whole) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 01 s"), (3600, "60 min 00 s")])
def test_seconds_are_readable(seconds: float, shown: str) -> None:
    """From a minute on, minutes."""
    assert report_page.duration(seconds) == shown


def test_a_negative_row_hash_has_sixteen_digits() -> None:
    """As SQL's hex shows it."""
    assert report_page.row_hash(-1) == "f" * 16
    assert report_page.row_hash(1) == "0" * 15 + "1"


@pytest.mark.parametrize(
    ("report", "word"),
    [
        (EMPTY, "Not published"),
        (replace(EMPTY, users=5, encoded=5, published=5), "Published"),
        (replace(EMPTY, users=5, encoded=5, audit=FAILED), "Audit failed"),
        (replace(EMPTY, deliveries=(BLOCKED,)), "Blocked"),
        (replace(EMPTY, users=5, encoded=5, audit=replace(FAILED, success=True, blocked=True)), "Blocked"),
        (replace(EMPTY, users=5, encoded=5, published=5, audit=replace(FAILED, success=True, blocked=True)), "Published"),
    ],
)
def test_the_verdict_is_one_word(report: DayReport, word: str) -> None:
    """It is also the page's title, so that a browser tab says it."""
    assert report_page.verdict(report).word == word
    assert f"<title>2026-01-14 · {word} ·" in report_page.render(report)


def test_a_failed_audit_says_what_still_stands() -> None:
    """Rows published by an earlier run stay; the sentence says so."""
    verdict = report_page.verdict(replace(EMPTY, users=5, encoded=5, published=4, audit=FAILED))
    assert (verdict.state, verdict.sentence.endswith("4 rows published earlier still stand.")) == ("refused", True)


def test_users_without_tokens_are_named() -> None:
    """A published day with fewer rows than active users does not look whole."""
    assert "1 active users have none" in report_page.verdict(replace(EMPTY, users=5, encoded=5, published=4)).sentence


def test_of_a_failure_only_known_fields_are_shown() -> None:
    """Unexpected values would be content; counts, columns and row hashes are not."""
    found = {
        "expectation": "codes_in_range",
        "column": "bill_codes",
        "unexpected_count": 2,
        "partial_unexpected_list": ["canary"],
    }
    audit = replace(FAILED, failures=json.dumps([{**found, "sample_row_hashes": [-1]}, "rows_equal_user_features: 4 and 5"]))
    first, second = report_page.failures(audit)
    assert first == ("codes_in_range", [("column", "bill_codes"), ("unexpected count", "2")], ["f" * 16])
    assert second == ("rows_equal_user_features: 4 and 5", [], [])
    page = report_page.render(replace(EMPTY, audit=audit))
    assert "codes_in_range" in page
    assert "canary" not in page


def test_quality_of_the_tokenizer_is_on_the_page() -> None:
    """Per level of a source, as training measured it; nothing where nothing was measured."""
    level = LevelQuality(level=1, error=0.25, codes=512, dead=3, perplexity=400.4, gini=0.31, margin_p10=0.0123, margin_p50=None)
    measured = SourceQuality(
        source="bill", slices=12_345, unique_sequence_rate=0.5, collision_rate=0.01, levels=(level, replace(level, level=2, margin_p50=0.5))
    )
    page = report_page.render(replace(EMPTY, tokenizer=TOKENIZER, quality=(measured,)))
    for shown in ("Quality of the tokenizer", "12,345 slices, 50% unique, 1% collide", "0.2500", "3 of 512", "400.4", "0.31", "0.0123, 0.5"):
        assert shown in page
    assert "Quality of the tokenizer" not in report_page.render(replace(EMPTY, tokenizer=TOKENIZER))


def test_the_last_days_name_those_that_are_not_published() -> None:
    """A refused day with users is one that stood before; without days there is no chart."""
    states = (("done", 1200), ("missing", 0), ("refused", 0), ("refused", 1100))
    days = tuple(DayBar(ds=EMPTY.ds + timedelta(days=n - 3), published=users, state=state) for n, (state, users) in enumerate(states))
    page = report_page.render(replace(EMPTY, days=days))
    assert "at most 1,200" in page
    assert "Refused: 2026-01-13, 2026-01-14." in page
    assert "Not published: 2026-01-12." in page
    assert "<title>2026-01-14: 1,100 users, refused</title>" in page
    chart = page.split('<svg class="days"', 1)[1].split("</svg>", 1)[0]
    assert [chart.count(f'<rect class="box {state}"') for state in ("done", "missing", "refused")] == [1, 1, 2]
    assert "The last days" not in report_page.render(EMPTY)
    assert '<span class="last">' not in report_page.render(replace(EMPTY, days=days[-1:]))
