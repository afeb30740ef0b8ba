"""`audits`: what the gate said of a staged day. Key: ds, tokenizer_version, staged_version, run_id."""

from schemas.table import RUN_ID, Table, required

AUDITS = Table(
    name="audits",
    comment="One row per audited day and staged table version; publishing requires a passing one.",
    fields=(
        required("ds", "DATE", "Day audited."),
        required("tokenizer_version", "STRING", "Tokenizer version audited."),
        required("staged_version", "BIGINT", "Version of staged_user_tokens that was read."),
        required("suite_hash", "STRING", "sha256 of the suite."),
        required("success", "BOOLEAN", "True when every expectation was evaluated and held."),
        required("evaluated", "INT", "Expectations evaluated."),
        required("rows", "BIGINT", "Staged rows of the day."),
        required("failures", "STRING", "JSON: expectations that failed, with counts. No ids, no content."),
        RUN_ID,
    ),
)
