"""`runs`: the ledger, one row per stage of a run. Key: run_id, stage, ds_from, started_at."""

from schemas.table import RUN_ID, Table, optional, required

STATES = "ARRAY<STRUCT<ds: DATE, definition: STRING, inputs: MAP<STRING, STRING>, outputs: MAP<STRING, STRING>, cutoff: TIMESTAMP, tokenizer_version: STRING>>"
RUNS = Table(
    name="runs",
    comment="Ledger: what ran, for which days, how it ended, rows per hop and table versions.",
    fields=(
        required("stage", "STRING", "Stage, as its file in jobs/ is called."),
        optional("ds_from", "DATE", "First day worked on."),
        optional("ds_to", "DATE", "Last day worked on."),
        required("status", "STRING", "done, skipped (nothing changed), adjusted (rows were taken away on purpose), refused (a gate or bad input) or failed."),
        required("rows", "MAP<STRING, BIGINT>", "Rows per hop."),
        required("tables_read", "MAP<STRING, BIGINT>", "Table to the version read."),
        required("tables_written", "MAP<STRING, BIGINT>", "Table to the version written."),
        required("seconds", "DOUBLE", "Wall-clock seconds."),
        required("started_at", "TIMESTAMP", "Wall clock at the start; the one place where it is recorded."),
        optional("detail", "STRING", "Why it was refused or failed; never user content."),
        RUN_ID,
        optional("states", STATES, "Per day: the definition worked by, sums (rows:sum of row_hash) of what was read and written, the cutoff given."),
    ),
)
