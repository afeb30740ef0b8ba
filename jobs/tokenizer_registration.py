"""Registering a checkpoint: its row in `tokenizers`, with the sums of its files, and its rows in `codebook_quality`.

A version never changes its fingerprint, and a registered folder never changes its files: `load_registered` compares both.
"""

import hashlib
import json
from pathlib import Path

from jobs.context import Context
from jobs.delta_tables import Where
from jobs.errors import BadInput
from jobs.ledger import StageRecord
from jobs.quality_rows import quality_rows
from jobs.registered_tokenizers import Registered, all_registered
from schemas.keys import Days
from schemas.tokenizers import TOKENIZERS
from u2qt_model import Tokenizer


def manifest_of(folder: Path) -> dict[str, str]:
    """sha256 of every file of a checkpoint's folder, by name; hidden files are not of the checkpoint."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refuse_other_fingerprint(context: Context, version: str, tokenizer: Tokenizer) -> None:
    for known in all_registered(context):
        if known.version == version and known.fingerprint != tokenizer.fingerprint:
            raise BadInput(
                f"tokenizer {version}: already registered with fingerprint {known.fingerprint[:16]}, this one has "
                f"{tokenizer.fingerprint[:16]}; give another version"
            )


def register(context: Context, days: Days, version: str, folder: Path, tokenizer: Tokenizer, record: StageRecord) -> Registered:
    """The registration of the checkpoint in `folder`, which was trained on `days`; one that was there before stays."""
    known = next((known for known in all_registered(context) if known.version == version), None)
    if known is not None:
        if (known.trained_from, known.trained_through) != (days.first, days.last):
            raise BadInput(
                f"tokenizer {version}: already registered as trained on {known.trained_from} to {known.trained_through}, found {days}; labels up to its "
                "last day are refused, so what was said stands: give another version"
            )
        record.notes["skipped"] = "registered before with the same fingerprint"
        return known
    registered = Registered(
        version=version,
        fingerprint=tokenizer.fingerprint,
        checkpoint=str(folder),
        trained_from=days.first,
        trained_through=days.last,
        layout=json.loads((folder / "layout.json").read_text(encoding="utf-8")),
        metrics=dict(tokenizer.metrics),
        manifest=manifest_of(folder),
    )
    metadata = {"run_id": context.run_id, "stage": record.stage}
    _write_quality(context, registered, record, metadata)
    row = {
        "tokenizer_version": version,
        "fingerprint": registered.fingerprint,
        "checkpoint": registered.checkpoint,
        "trained_from": days.first,
        "trained_through": days.last,
        "layout": json.dumps(registered.layout),
        "metrics": json.dumps(registered.metrics),
        "manifest": json.dumps(registered.manifest, sort_keys=True),
        "run_id": context.run_id,
    }
    record.written["tokenizers"] = context.lake.append("tokenizers", context.lake.frame(TOKENIZERS, [row]), metadata)
    return registered


def _write_quality(context: Context, registered: Registered, record: StageRecord, metadata: dict[str, str]) -> None:
    """Before the registration, and replaced by a second try: no registered version is without."""
    rows = quality_rows(registered.version, registered.metrics, context.run_id)
    frame = context.spark.createDataFrame(rows, context.lake.read("codebook_quality").schema).coalesce(1)
    where = Where(equals=(("tokenizer_version", registered.version),))
    record.written["codebook_quality"] = context.lake.replace("codebook_quality", frame, where, metadata)
