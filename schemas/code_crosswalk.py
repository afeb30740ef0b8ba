"""`code_crosswalk`: which codes of a newer tokenizer stand where an older one's stood. Key: the versions, source, level, both codes."""

from schemas.table import RUN_ID, Table, required

CODE_CROSSWALK = Table(
    name="code_crosswalk",
    comment="Old code to new code, counted on the rows that both versions published of the same features; written by `u2qt tokenizer crosswalk`.",
    fields=(
        required("old_version", "STRING", "Tokenizer version to come from."),
        required("new_version", "STRING", "Tokenizer version to go to."),
        required("source", "STRING", "Behaviour source."),
        required("level", "INT", "Level, from 1 (coarse); deeper levels mean something only below the codes above them."),
        required("old_code", "SMALLINT", "Code under the old version."),
        required("new_code", "SMALLINT", "Code under the new version."),
        required("slices", "BIGINT", "Slices with both."),
        required("share_of_old", "DOUBLE", "Of the old code's slices, the share that has the new code; sums to 1 per old code."),
        required("share_of_new", "DOUBLE", "Of the new code's slices, the share that had the old code; sums to 1 per new code."),
        RUN_ID,
    ),
    partition_by=("old_version", "new_version"),
)
