"""What may be published: a day whose audit passed, or that a person accepts although it is unlike the days before it.

Only the gates that compare with earlier days can be overruled: they know what is usual, not what is right. A failed suite says that
rows are wrong (codes outside their codebooks, lost or doubled users), and nobody's reason makes them right.
"""

from datetime import date

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.day_states import sums_by_day, tokens_hash
from jobs.delta_tables import on_days
from jobs.errors import BadInput, GateRefused
from jobs.registered_tokenizers import Registered
from jobs.staged_files import staged_files
from schemas.audits import AUDITS
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


def newest_audits(audits: DataFrame) -> list[Row]:
    """Of each day (of one tokenizer version) the last audit of the newest stage that was audited."""
    order = F.struct("staged_version", "audited_at")
    return audits.groupBy("ds").agg(F.max_by(F.struct("*"), order).alias("audit")).select("audit.*").collect()


def accepted_days(context: Context, days: Days, registered: Registered) -> dict[date, str]:
    """Days that the gates blocked and a person published, while the stage still has those very rows and files; with the reason."""
    audits = on_days(context.lake.read_declared(AUDITS), days).where(F.col("tokenizer_version") == registered.version)
    files = staged_files(context, days, registered.version, context.lake.version("staged_user_tokens"))
    blocked = [row.ds for row in newest_audits(audits) if row.success and row.drift_blocked and row.staged_files == files[row.ds]]
    if not blocked:
        return {}
    runs = on_days(context.lake.read("runs").where("stage = 'publish_tokens' AND status IN ('done', 'adjusted') AND ds_from = ds_to"), days, "ds_from")
    mine = F.get(F.filter("states", lambda s: (s["ds"] == F.col("ds_from")) & (s["tokenizer_version"] == registered.version)), F.lit(0))
    said = runs.select("ds_from", "started_at", F.get_json_object("detail", "$.accepted").alias("reason"), mine["inputs"]["staged_user_tokens"].alias("rows"))
    reasons = {(row["ds_from"], row["rows"]): str(row["reason"]) for row in said.where("reason IS NOT NULL").orderBy("started_at").collect()}
    staged = on_days(context.lake.read("staged_user_tokens"), days).where(F.col("tokenizer_version") == registered.version)
    rows = sums_by_day(staged.select("ds", tokens_hash([s.name for s in context.catalog.sources]).alias("row_hash")), days)
    return {ds: reasons[ds, rows[ds]] for ds in blocked if (ds, rows[ds]) in reasons}


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
