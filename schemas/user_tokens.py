"""`user_tokens` with its stage and its superseded rows. Key: user_id, ds, tokenizer_version (+ superseded_by_run)."""

from collections.abc import Iterable

from schemas.catalog import Catalog
from schemas.table import RUN_ID, Field, Table, optional, required

CODES = "{source}_codes"


def codes_column(source: str) -> str:
    return CODES.format(source=source)


def hashed_columns(sources: Iterable[str]) -> tuple[str, ...]:
    """What a row says of a user, by which two rows are compared; not which run wrote it, nor when it was known."""
    return ("user_id", "row_hash", *(codes_column(source) for source in sources))


def _fields(catalog: Catalog) -> tuple[Field, ...]:
    return (
        required("user_id", "STRING", "User id."),
        required("ds", "DATE", "Day whose behaviour the codes describe."),
        required("tokenizer_version", "STRING", "Tokenizer that made the codes; codes of two versions never compare."),
        required("available_at", "TIMESTAMP", "Moment from which the row could be known: a label earlier than this must not see it."),
        required("row_hash", "BIGINT", "Hash of the features behind the codes; equal hash, equal codes."),
        RUN_ID,
        *(
            optional(codes_column(s.name), "ARRAY<SMALLINT>", f"Codes of {s.name}, one per level, coarse first. NULL: nothing there that day.")
            for s in catalog.sources
        ),
    )


def _checks(catalog: Catalog) -> tuple[tuple[str, str], ...]:
    """Hold for every version; exact lengths and ranges are the audit's."""
    rule = "{c} IS NULL OR (size({c}) BETWEEN 1 AND 64 AND array_min({c}) >= 0)"
    return tuple((f"{codes_column(s.name)}_valid", rule.format(c=codes_column(s.name))) for s in catalog.sources)


def user_tokens(catalog: Catalog) -> Table:
    return Table(
        name="user_tokens",
        comment="Published user tokens: audited, one row per user, day and tokenizer version.",
        fields=_fields(catalog),
        partition_by=("ds", "tokenizer_version"),
        checks=_checks(catalog),
    )


def staged_user_tokens(catalog: Catalog) -> Table:
    return Table(
        name="staged_user_tokens",
        comment="Encoded, not yet audited: read user_tokens instead.",
        fields=_fields(catalog),
        partition_by=("ds", "tokenizer_version"),
    )


def user_tokens_superseded(catalog: Catalog) -> Table:
    by_run = required("superseded_by_run", "STRING", "Publishing run that replaced the row; ignore rows whose run never published.")
    return Table(
        name="user_tokens_superseded",
        comment="Rows of user_tokens that a repair replaced, so that a point-in-time join sees what was known then.",
        fields=(*_fields(catalog), by_run),
        partition_by=("ds", "tokenizer_version", "superseded_by_run"),
    )
