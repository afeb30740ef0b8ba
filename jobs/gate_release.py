"""What may be published: a day whose audit passed, or that a person accepts although it is unlike the days before it.

Only the gates that compare with earlier days can be overruled: they know what is usual, not what is right. A failed suite says that
rows are wrong (codes outside their codebooks, lost or doubled users), and nobody's reason makes them right.
"""

from datetime import date

from pyspark.sql import Row

from jobs.errors import BadInput, GateRefused
from schemas.keys import Days

REASON_CHARS = 500


def require_passed(ds: date, version: str, audit: Row | None, accept: str | None) -> None:
    """Raises `GateRefused` unless `audit` lets the day through, by itself or with a reason; `BadInput` for a reason that nothing needs."""
    again = f"run `u2qt audit --ds {ds} --tokenizer-version {version}`"
    if audit is None or not audit.success:
        verdict = "does not exist" if audit is None else "failed"
        overruled = "; --accept releases a day unlike the days before it, never one whose suite failed" if audit and accept is not None else ""
        raise GateRefused(f"publish {ds}, {version}: its audit {verdict}, expected a passing one; {again} and read what it says{overruled}")
    if audit.drift_blocked is None:
        raise GateRefused(f"publish {ds}, {version}: its audit is of an earlier release and did not compare it with the days before; {again}")
    if audit.drift_blocked and accept is None:
        raise GateRefused(
            f"publish {ds}, {version}: its audit found it unlike the days before it (`u2qt status --ds {ds}` says how); mend the cause, or release it "
            f"with `u2qt publish --ds {ds} --tokenizer-version {version} --accept REASON`"
        )
    if accept is not None and not audit.drift_blocked:
        raise BadInput(f"--accept: nothing to accept, the audit of {ds}, {version}, blocked nothing; publish without it")


def require_reason(days: Days, accept: str) -> str:
    """The reason, if it is one line of words about one day."""
    if days.first != days.last:
        raise BadInput(f"--accept with {days}: found {len(days)} days, expected --ds and one day; a reason is about a day that somebody looked at")
    return one_line("--accept", accept)


def one_line(option: str, reason: str) -> str:
    """A reason as the tables keep it; raises `BadInput` for an empty, long or many-lined one."""
    if not reason.strip() or not reason.isprintable() or len(reason) > REASON_CHARS:
        raise BadInput(f"{option}: found {len(reason)} characters, expected a reason on one line, 1 to {REASON_CHARS} characters")
    return reason
