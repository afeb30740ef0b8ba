"""The day's report as one HTML page: its words, its numbers' forms, its rendering. Knows nothing of Spark.

Of what an audit recorded, only plain sentences, the fields in `FAILURE_FIELDS` and row hashes are shown.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import jinja2

from jobs import report_pictures as pictures
from jobs.report_model import Audit, DayBar, DayReport

FAILURE_NAMES = ("expectation", "expectation_type", "type", "name")
FAILURE_FIELDS = ("column", "source", "level", "count", "unexpected_count", "element_count")
HASHES_SHOWN = 5
SENTENCE = 500  # longest failure shown, in characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The day in one word and one sentence."""

    state: str  # done, refused or missing
    word: str
    sentence: str


def verdict(report: DayReport) -> Verdict:
    blocked = [d.source for d in report.deliveries if d.blocked]
    standing = "Nothing was published."
    if report.published:
        standing = f"{number(report.published)} rows published earlier still stand."
    if blocked and not report.users:
        return Verdict(state="refused", word="Blocked", sentence=f"The gate blocked {', '.join(blocked)}. {standing}")
    if report.audit is not None and not report.audit.success:
        sentence = f"The staged tokens did not pass their audit. {standing}"
        return Verdict(state="refused", word="Audit failed", sentence=sentence)
    if report.audit is not None and report.audit.blocked and not report.published:
        return Verdict(state="refused", word="Blocked", sentence=f"The staged tokens are unlike those of the days before. {standing}")
    if report.published:
        return Verdict(state="done", word="Published", sentence=_published(report, blocked))
    reached = {"encoded": report.encoded, "built into features": report.users, "validated": report.total("rows_in")}
    stage = next((word for word, count in reached.items() if count), "tried")
    return Verdict(state="missing", word="Not published", sentence=f"The day was {stage}, and went no further yet.")


def _published(report: DayReport, blocked: list[str]) -> str:
    version = report.tokenizer.version if report.tokenizer else ""
    sentence = f"{number(report.published)} users have tokens of {version} for this day."
    if report.published < report.users:
        sentence += f" {number(report.users - report.published)} active users have none."
    return f"{sentence} The gate blocked {', '.join(blocked)}." if blocked else sentence


def flow(report: DayReport) -> pictures.Flow:
    gate = "refused" if any(d.blocked or d.running for d in report.deliveries) else "done"
    audited = pictures.Step(name="Audited", count=0, state="missing")
    if report.audit is not None:
        audited = _step("Audited", report.audit.rows, "done" if report.audit.success else "refused")
    return pictures.Flow(
        rows_in=report.total("rows_in"),
        clean=_step("Clean rows", report.total("clean"), gate if report.deliveries else "missing"),
        quarantined=report.total("quarantined"),
        duplicates=report.total("duplicates"),
        forgotten=report.total("forgotten"),
        users=(
            _step("Active users", report.users),
            _step("Encoded", report.encoded),
            audited,
            _step("Published", report.published),
        ),
    )


def _step(name: str, count: int, state: str | None = None) -> pictures.Step:
    return pictures.Step(name=name, count=count, state=state or ("done" if count else "missing"))


def bars(days: tuple[DayBar, ...]) -> tuple[tuple[int, str], ...]:
    return tuple((day.published, day.state) for day in days)


Failure = tuple[str, list[tuple[str, str]], list[str]]  # what failed, plain facts, row hashes


def failures(audit: Audit) -> list[Failure]:
    """Every failing expectation; whatever else the JSON holds stays where it is."""
    content = json.loads(audit.failures or "[]")
    return [_failure(item) for item in (content if isinstance(content, list) else [content])]


def _failure(item: object) -> Failure:
    if not isinstance(item, dict):
        return str(item)[:SENTENCE], [], []
    name = next((str(item[key]) for key in FAILURE_NAMES if item.get(key)), "unnamed expectation")
    plain = [key for key in FAILURE_FIELDS if isinstance(item.get(key), str | int)]
    hashes = [h for key, found in item.items() if key.endswith("row_hashes") and isinstance(found, list) for h in found]
    shown = [row_hash(h) for h in hashes if isinstance(h, int)][:HASHES_SHOWN]
    return name[:SENTENCE], [(key.replace("_", " "), str(item[key])[:80]) for key in plain], shown


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
    words = {"verdict": verdict(report), "flow": flow(report), "failures": failures, "bars": bars}
    return template.render(report=report, pictures=pictures, **words)


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
