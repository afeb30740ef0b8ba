"""`tokenizers`, the registered checkpoints, and `promotions`, which of them is current. Keys: tokenizer_version; seq."""

from schemas.table import RUN_ID, Table, optional, required

TOKENIZERS = Table(
    name="tokenizers",
    comment="Trained tokenizers; a version never changes its fingerprint.",
    fields=(
        required("tokenizer_version", "STRING", "Name of the version."),
        required("fingerprint", "STRING", "sha256 over weights, config, feature layout and text encoder."),
        required("checkpoint", "STRING", "Folder of the checkpoint."),
        required("trained_from", "DATE", "First day it was trained on."),
        required("trained_through", "DATE", "Last day it was trained on: labels of that day or earlier would leak."),
        required("layout", "STRING", "layout.json: sources, levels, codebook sizes."),
        required("metrics", "STRING", "metrics.json: held-out error and codebook usage."),
        optional("manifest", "STRING", "JSON: sha256 of each file of the checkpoint; one that differs is refused.", later=True),
        RUN_ID,
    ),
)

PROMOTIONS = Table(
    name="promotions",
    comment="Promotions in order; the row with the greatest seq names the current version.",
    fields=(
        required("seq", "BIGINT", "Order, from 1."),
        required("tokenizer_version", "STRING", "Version that became current."),
        optional("reason", "STRING", "Why, in the words of who did it."),
        optional("missing_days", "INT", "Published days of the 90 before that the version had not published, or not as they were by then.", later=True),
        optional("allowed_gap", "STRING", "Why it was promoted without them, in the words of who did it.", later=True),
        RUN_ID,
    ),
)
