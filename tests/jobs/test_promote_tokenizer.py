"""Promotion: one row per change, and nothing else moves."""

import threading
from dataclasses import replace
from datetime import date

import pytest

from jobs import ledger, promote_tokenizer
from jobs.context import Context
from jobs.errors import BadInput, Infrastructure
from schemas.errors import IdentifierError

REGISTERED = """
    SELECT v AS tokenizer_version, 'f' AS fingerprint, '/c' AS checkpoint, DATE'2026-01-01' AS trained_from,
           DATE'2026-01-07' AS trained_through, '{"sources": []}' AS layout, '{}' AS metrics, CAST(NULL AS STRING) AS manifest, 'r' AS run_id
    FROM VALUES ('v1'), ('v2') AS t(v)
"""


@pytest.fixture
def registered(ready: Context) -> Context:
    """Versions v1 and v2, none promoted, nothing published."""
    ready.lake.append("tokenizers", ready.spark.sql(REGISTERED), {})
    return ready


def history(context: Context) -> list[tuple[int, str, str]]:
    rows = context.lake.read("promotions").orderBy("seq").collect()
    return [(row["seq"], row["tokenizer_version"], row["reason"]) for row in rows]


def test_promotions_are_numbered_and_one_commit_each(registered: Context) -> None:
    """There and back again: three rows, three versions of the table."""
    for version in ("v1", "v2", "v1"):
        assert promote_tokenizer.run(registered, version, f"try {version}").changed
    assert history(registered) == [(1, "v1", "try v1"), (2, "v2", "try v2"), (3, "v1", "try v1")]
    assert registered.lake.version("promotions") == 3


def test_promoting_the_current_version_writes_nothing_and_says_so(registered: Context) -> None:
    """The table keeps its version."""
    promote_tokenizer.run(registered, "v1", "first")
    again = promote_tokenizer.run(registered, "v1", "again")
    assert (again.changed, again.seq, again.days) == (False, 1, 0)
    assert "was current already; nothing written" in str(again)
    assert "no day of it is published yet" in str(again)
    assert registered.lake.version("promotions") == 1


def test_an_unregistered_version_is_refused_with_the_known_ones(registered: Context) -> None:
    """The refusal is in the ledger; promotions stays as it was."""
    with pytest.raises(BadInput, match=r"tokenizer v3: not registered, registered are: v1, v2"):
        promote_tokenizer.run(registered, "v3", "typo")
    assert registered.lake.version("promotions") == 0
    row = registered.lake.read("runs").first()
    assert row is not None
    assert (row["stage"], row["status"]) == ("promote_tokenizer", "refused")


def test_a_version_that_is_no_identifier_reaches_no_sql(registered: Context) -> None:
    """Quotes end at the door."""
    with pytest.raises(IdentifierError):
        promote_tokenizer.run(registered, "v1' OR '1'='1", "attack")


def test_simultaneous_promotions_keep_seq_unique(registered: Context) -> None:
    """Whatever the interleaving, no seq occurs twice, so there is exactly one current version."""
    outcomes: list[str] = []

    def promote(version: str) -> None:
        try:
            outcomes.append(str(promote_tokenizer.run(registered, version, "race")))
        except Infrastructure as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=promote, args=(version,)) for version in ("v1", "v2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 2
    seqs = [seq for seq, _, _ in history(registered)]
    assert len(seqs) == len(set(seqs)) == sum("is now current" in outcome for outcome in outcomes) >= 1


def test_a_promotion_that_was_overtaken_takes_nobody_s_place(registered: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other's row stays, and this one says so."""
    gap = promote_tokenizer.gap

    def overtaken(context: Context, version: str) -> list[date]:
        monkeypatch.undo()
        promote_tokenizer.run(replace(context, run_id="other"), "v2", "first")
        return gap(context, version)

    monkeypatch.setattr(promote_tokenizer, "gap", overtaken)
    with pytest.raises(Infrastructure, match="promotions seq 1: another promotion was committed meanwhile"):
        promote_tokenizer.run(registered, "v1", "late")
    assert history(registered) == [(1, "v2", "first")]


def test_a_roll_back_that_lost_its_last_word_is_repeated_and_not_undone(registered: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a kill between its commit and the ledger's row: the same command again changes nothing; the next one is meant."""
    for version in ("v1", "v2"):
        promote_tokenizer.run(registered, version, f"try {version}")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger, "_append", full)
    with pytest.raises(Infrastructure, match="disk full"):
        promote_tokenizer.roll_back(registered, "as it was")
    monkeypatch.undo()
    for changed, version, seq in ((False, "v1", 3), (True, "v2", 4)):
        again = promote_tokenizer.roll_back(registered, "as it was")
        assert (again.changed, again.tokenizer_version, again.seq) == (changed, version, seq)


def test_a_gap_is_allowed_where_there_is_one_and_once(registered: Context) -> None:
    """A reason for nothing is a mistake; the repetition of a promotion that was done is none."""
    with pytest.raises(BadInput, match="nothing to allow"):
        promote_tokenizer.run(registered, "v1", "first", allow_gap="why not")
    promote_tokenizer.run(registered, "v1", "first")
    assert not promote_tokenizer.run(registered, "v1", "first", allow_gap="as before").changed
