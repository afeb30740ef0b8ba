"""The day's report as a page: what it shows, as plain data, and its rendering. Knows nothing of Spark.

Holds counts, lengths, codes and row hashes; there is no field for a user id or for content. Rows that failures quote are
dropped: only the fields named in `FAILURE_FIELDS` and row hashes are shown.
"""

import json
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources

import jinja2

from jobs import report_pictures as pictures

FAILURE_NAMES = ("expectation", "expectation_type", "type", "name")
FAILURE_FIELDS = ("column", "source", "level", "count", "unexpected_count", "element_count", "expected", "found", "observed")
HASHES_SHOWN = 5
HISTOGRAM_BINS = 12  # the last one holds this many events and more


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """What became of the rows of one source on the day of delivery."""

    source: str
    rows_in: int
    clean: int
    quarantined: int
    duplicates: int
    blocked: bool
    reasons: tuple[tuple[str, int], ...] = ()  # the most frequent codes with their rows; a row may have several

    @property
    def unclean_share(self) -> float:
        return (self.rows_in - self.clean) / self.rows_in if self.rows_in else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """How many of the day's active users used one source, and how much."""

    source: str
    kind: str  # events or profile
    users: int
    events: int
    histogram: tuple[int, ...]  # users with 1, 2, ... events; the last bin is open


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelUsage:
    """How one source used one level's codebook."""

    source: str
    source_order: int  # its place in the catalog
    level: int  # from 1
    shared: bool
    codebook_size: int
    slices: int
    used: int
    outside: int  # codes that the codebook doesn't have
    perplexity: float
    top_share: float  # of the slices, by the most frequent code
    curve: tuple[float, ...]  # share of the slices per code, most frequent first, averaged over ranks into at most 64 columns

    @property
    def dead(self) -> int:
        return self.codebook_size - self.used


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The newest audit of the day's staged tokens."""

    success: bool
    evaluated: int
    rows: int
    staged_version: int
    suite_hash: str
    failures: str  # JSON, as table audits holds it
    audits: int  # of this day and tokenizer, this one included


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSlice:
    """One user's slice of one source."""

    source: str
    kind: str
    events: int
    characters: int | None  # None for a profile
    tokens: tuple[tuple[int, str], ...]  # code and token name per level


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleUser:
    row_hash: str
    slices: tuple[SampleSlice, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """One row of the ledger."""

    stage: str
    status: str
    started: str  # UTC
    seconds: float
    rows: tuple[tuple[str, int], ...]
    run_id: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerInfo:
    version: str
    fingerprint: str
    trained_from: date
    trained_through: date
    promoted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class DayReport:
    """Everything the page shows. Counts of users are None where the day has no tokenizer to count for."""

    ds: date
    catalog: str
    deliveries: tuple[Delivery, ...]
    users: int
    activity: tuple[Activity, ...]
    tokenizer: TokenizerInfo | None
    encoded: int
    published: int
    usage: tuple[LevelUsage, ...]
    usage_table: str  # where the codes were read: user_tokens or staged_user_tokens
    audit: Audit | None
    samples: tuple[SampleUser, ...]
    stages: tuple[StageRow, ...]
    table_versions: tuple[tuple[str, int], ...]

    def total(self, outcome: str) -> int:
        """Sum of `rows_in`, `clean`, `quarantined` or `duplicates` over the sources."""
        return sum(int(getattr(delivery, outcome)) for delivery in self.deliveries)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The day in one word and one sentence."""

    state: str  # done, refused or missing
    word: str
    sentence: str


def verdict(report: DayReport) -> Verdict:
    blocked = [d.source for d in report.deliveries if d.blocked]
    standing = f"{number(report.published)} rows published earlier still stand." if report.published else "Nothing was published."
    if blocked and not report.users:
        return Verdict(state="refused", word="Blocked", sentence=f"The gate blocked {', '.join(blocked)}. {standing}")
    if report.audit is not None and not report.audit.success:
        return Verdict(state="refused", word="Audit failed", sentence=f"The staged tokens did not pass their audit. {standing}")
    if report.published:
        return Verdict(state="done", word="Published", sentence=_published(report, blocked))
    reached = [("encoded", report.encoded), ("built into features", report.users), ("validated", report.total("rows_in"))]
    stage = next((word for word, count in reached if count), "tried")
    return Verdict(state="missing", word="Not published", sentence=f"The day was {stage}, and went no further yet.")


def _published(report: DayReport, blocked: list[str]) -> str:
    version = report.tokenizer.version if report.tokenizer else ""
    sentence = f"{number(report.published)} users have tokens of {version} for this day."
    if report.published < report.users:
        sentence += f" {number(report.users - report.published)} active users have none."
    return f"{sentence} The gate blocked {', '.join(blocked)}." if blocked else sentence


def flow(report: DayReport) -> pictures.Flow:
    audit = report.audit
    gate = "refused" if any(d.blocked for d in report.deliveries) else "done"
    audited = pictures.Step(name="Audited", count=audit.rows if audit else 0, state="missing" if audit is None else "done" if audit.success else "refused")
    steps = (("Active users", report.users), ("Encoded", report.encoded))
    return pictures.Flow(
        rows_in=report.total("rows_in"),
        clean=pictures.Step(name="Clean rows", count=report.total("clean"), state=gate if report.deliveries else "missing"),
        quarantined=report.total("quarantined"),
        duplicates=report.total("duplicates"),
        users=(
            *(pictures.Step(name=name, count=count, state="done" if count else "missing") for name, count in steps),
            audited,
            pictures.Step(name="Published", count=report.published, state="done" if report.published else "missing"),
        ),
    )


def failures(audit: Audit) -> list[tuple[str, list[tuple[str, str]], list[str]]]:
    """Name, plain facts and row hashes of each failing expectation; anything else in the JSON stays where it is."""
    content = json.loads(audit.failures or "[]")
    return [_failure(item) for item in (content if isinstance(content, list) else [content])]


def _failure(item: object) -> tuple[str, list[tuple[str, str]], list[str]]:
    if not isinstance(item, dict):
        return str(item)[:300], [], []
    name = next((str(item[key]) for key in FAILURE_NAMES if item.get(key)), "unnamed expectation")
    facts = [(key.replace("_", " "), str(item[key])[:80]) for key in FAILURE_FIELDS if isinstance(item.get(key), str | int | float)]
    hashes = [value for key, value in item.items() if key.endswith("row_hashes") and isinstance(value, list)]
    return name[:200], facts, [row_hash(h) for h in sum(hashes, []) if isinstance(h, int)][:HASHES_SHOWN]


def number(value: int) -> str:
    return f"{value:,}"


def share(part: float, whole: float) -> str:
    """A percentage that never rounds a few to none or nearly all to all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%" if percent % 1 and percent < 99.95 else f"{percent:.0f}%"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def row_hash(value: int) -> str:
    """Sixteen hex digits, as `SELECT lower(hex(row_hash))` pads them."""
    return f"{value & (2**64 - 1):016x}"


def render(report: DayReport) -> str:
    """One self-contained HTML page without scripts or outside resources."""
    template = _environment().get_template("report.html.j2")
    return template.render(report=report, verdict=verdict(report), flow=flow(report), failures=failures, pictures=pictures)


@cache
def _environment() -> jinja2.Environment:
    folder = resources.files("jobs") / "templates"  # a zip on a cluster has no path to load from
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, share=share, duration=duration)
    return environment
