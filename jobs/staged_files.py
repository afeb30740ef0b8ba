"""Which files of the stage a day's tokens are: an audit is of files, and publishing reads exactly those."""

import hashlib
from datetime import date

from jobs.context import Context
from jobs.delta_tables import Where
from schemas.keys import Days


def staged_files(context: Context, days: Days, tokenizer_version: str, table_version: int) -> dict[date, str]:
    """sha256 over the names of each day's files in staged_user_tokens; a day without files has one too. From Delta's log, no data is read."""
    names: dict[date, list[str]] = {ds: [] for ds in days}
    where = Where(days=days, equals=(("tokenizer_version", tokenizer_version),))
    for file in context.lake.active_files("staged_user_tokens", table_version, where):
        names[date.fromisoformat(file.partition["ds"])].append(file.url.rsplit("/", 1)[-1])
    return {ds: _named(found) for ds, found in names.items()}


def _named(files: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()


NO_FILES = _named([])
