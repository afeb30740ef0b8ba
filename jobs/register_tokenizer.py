"""Registers a checkpoint that was trained elsewhere: another machine, another lakehouse, processes that somebody else started.

Reads the checkpoint's folder; writes a copy of it, its rows of codebook_quality and a row of tokenizers. Key: tokenizer_version.
Idempotent on the fingerprint, as a training is. The original folder is not needed afterwards.
"""

from pathlib import Path

import u2qt_model
from jobs.context import Context
from jobs.ledger import record_stage
from jobs.quality_rows import quality_rows
from jobs.registered_tokenizers import Registered, checkpoint_folder, feature_layout
from jobs.tokenizer_registration import refuse_other_fingerprint, register
from schemas import keys
from schemas.keys import Days


def run(context: Context, checkpoint: Path, version: str, trained_on: Days, *, checkpoints: Path | None = None) -> Registered:
    """Raises `CheckpointError` for a folder that is no sound checkpoint of this catalog, `BadInput` for a version that is taken.

    `trained_on` is the word of whoever brings it: joins refuse labels up to its last day, for they would leak.
    """
    keys.version(version)
    with record_stage(context, "register_tokenizer", trained_on) as record:
        tokenizer = u2qt_model.load(checkpoint, expect_layout=feature_layout(context.catalog))
        refuse_other_fingerprint(context, version, tokenizer)
        quality_rows(version, tokenizer.metrics, context.run_id)  # refused before anything is copied
        folder = u2qt_model.save(tokenizer, checkpoint_folder(context, checkpoints) / version)
        return register(context, trained_on, version, folder, tokenizer, record)
