"""`codebook_quality`: what training measured of each registered tokenizer. Key: tokenizer_version, source, level, codebook."""

from schemas.table import RUN_ID, Table, optional, required

ALL_SOURCES = "*"  # no source can be named so

CODEBOOK_QUALITY = Table(
    name="codebook_quality",
    comment="Quality of each codebook when its tokenizer was registered. Use is of the training sample, error and margins of held-out users.",
    fields=(
        required("tokenizer_version", "STRING", "Name of the version."),
        required("source", "STRING", "Behaviour source; * for a shared codebook as all sources together use it."),
        required("level", "INT", "Level, from 1 (coarse)."),
        required("codebook", "STRING", "shared: the codes that all sources have on the level; own: those of the source."),
        required("codebook_size", "INT", "Codes that the codebook has."),
        required("used", "INT", "Codes that at least one slice of the source (*: of any source that shares the codebook) has."),
        required("dead", "INT", "Codes that none has: codebook_size - used."),
        required("perplexity", "DOUBLE", "exp of the entropy of the codes within the codebook; 0 without slices."),
        required("gini", "DOUBLE", "Inequality of the codes: 0 is even, towards 1 is one code for all."),
        required("relative_squared_error", "DOUBLE", "Error of the source after this level: 0 is exact, 1 no better than the mean."),
        required("unique_sequence_rate", "DOUBLE", "Distinct code sequences per slice of the source, over all levels."),
        required("collision_rate", "DOUBLE", "Share of the distinct slices of the source whose code sequence another one has too."),
        optional("margin_p01", "DOUBLE", "1st percentile of the level's margins: how much farther the best other code is, squared. NULL without slices."),
        optional("margin_p10", "DOUBLE", "10th percentile of the level's margins."),
        optional("margin_p50", "DOUBLE", "Median of the level's margins."),
        optional("margin_p90", "DOUBLE", "90th percentile of the level's margins."),
        required("slices", "BIGINT", "Slices of the source in training, held-out ones included."),
        required("held_out_slices", "BIGINT", "Those of held-out users; 0: error and margins are of the training sample."),
        RUN_ID,
    ),
)
