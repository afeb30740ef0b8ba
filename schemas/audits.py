"""`audits`: what the gate said of a staged day. Key: ds, tokenizer_version, staged_version, run_id."""

from schemas.table import RUN_ID, Table, optional, required

AUDITS = Table(
    name="audits",
    comment="One row per audited day and staged table version; publishing requires a passing one whose drift did not block, or was accepted.",
    fields=(
        required("ds", "DATE", "Day audited."),
        required("tokenizer_version", "STRING", "Tokenizer version audited."),
        required("staged_version", "BIGINT", "Version of staged_user_tokens that was read."),
        required("suite_hash", "STRING", "sha256 of the suite."),
        required("success", "BOOLEAN", "True when every expectation was evaluated and held."),
        required("evaluated", "INT", "Expectations evaluated."),
        required("rows", "BIGINT", "Staged rows of the day."),
        required("failures", "STRING", "JSON: expectations that failed, with counts. No ids, no content."),
        optional("drift", "STRING", "JSON: the day against the days published before it, gate by gate. NULL: failed before it was measured.", later=True),
        optional("drift_blocked", "BOOLEAN", "True when such a gate refused the day: `u2qt publish --accept` releases it.", later=True),
        optional("audited_at", "TIMESTAMP", "When; of several audits of one staged version the last one's drift counts.", later=True),
        optional("staged_files", "STRING", "sha256 over the names of the day's staged files: publishing reads exactly those.", later=True),
        RUN_ID,
    ),
)
