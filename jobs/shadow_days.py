"""Days for a tokenizer in the shadow: registered, not promoted, its tokens beside those that readers see.

`u2qt tokenizer shadow` encodes, audits and publishes these days under it, by the daily stages themselves. Rows of two versions
share a table, never a partition or a view.
"""

from collections.abc import Sequence
from datetime import date, timedelta

from jobs.context import Context
from jobs.errors import BadInput
from jobs.promote_tokenizer import gap
from jobs.registered_tokenizers import find_registered, promoted_version
from schemas.keys import Days

DAYS_AT_ONCE = 7  # in one job a stage and one commit; what a killed run has to do again


def chunks(days: Sequence[date], at_once: int = DAYS_AT_ONCE) -> list[Days]:
    """Ascending days as ranges without holes, at most `at_once` long."""
    ranges: list[Days] = []
    for day in days:
        if ranges and day == ranges[-1].last + timedelta(days=1) and len(ranges[-1]) < at_once:
            ranges[-1] = Days(ranges[-1].first, day)
        else:
            ranges.append(Days(day, day))
    return ranges


def planned(context: Context, version: str, days: Days | None) -> list[Days]:
    """`days`, or those that `version` lacks for its promotion, oldest first. Raises `BadInput` for the promoted version."""
    if find_registered(context, version).version == promoted_version(context):
        raise BadInput(f"tokenizer {version}: is promoted, expected another one; the promoted one's days are made by `u2qt run-day`")
    return chunks(list(days) if days is not None else gap(context, version))
