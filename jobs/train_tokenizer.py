"""train_tokenizer: a tokenizer learned from the feature rows of some days, frozen and registered under a version.

Reads user_features (one pinned version, streamed by Petastorm); writes a checkpoint folder, its rows of codebook_quality
and a row of tokenizers.
Key: tokenizer_version. Idempotent on the fingerprint: the same data, config and seed register nothing new; another
fingerprint under a registered version is refused. A killed run goes on after its last finished epoch, from a file beside the
checkpoints that belongs to the same files, configuration and version. Memory is flat in users and days.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.context import Context
from jobs.delta_tables import Where
from jobs.errors import BadInput
from jobs.ledger import StageRecord, record_stage
from jobs.quality_rows import quality_rows
from jobs.registered_tokenizers import Registered, all_registered, feature_layout
from schemas import keys
from schemas.keys import Days
from u2qt_model import FeatureBatch, Tokenizer, TokenizerConfig, save
from u2qt_model.stream import read_files
from u2qt_model.train import Progress, train
from u2qt_model.training_state import RunFile


def run(
    context: Context,
    days: Days,
    version: str,
    config: TokenizerConfig,
    *,
    checkpoints: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Registered:
    """Trains on `days` and registers the result. `checkpoints` is where folders are kept (default: in a local lakehouse)."""
    keys.version(version)
    with record_stage(context, "train_tokenizer", days) as record:
        folder = _folder(context, checkpoints) / version
        context.lake.require("codebook_quality")  # before the training, not after it
        files = _files(context, days, record)
        layout = feature_layout(context.catalog)

        def open_stream() -> Iterator[FeatureBatch]:
            return read_files(files, layout, events=config.reads_events)

        run_file = RunFile.of(folder.with_name(f".{version}.training"), layout, config, json.dumps(sorted(files)))
        tokenizer = train(layout, config, open_stream, progress, run_file)
        _refuse_other_fingerprint(context, version, tokenizer)
        save(tokenizer, folder)
        registered = _register(context, days, version, folder, tokenizer, record)
        run_file.remove()
        return registered


def _folder(context: Context, given: Path | None) -> Path:
    if given is None and not context.lake.is_local:
        raise BadInput(f"--checkpoints: found none, expected a folder, because the lakehouse {context.lake.root} is not on this machine")
    return (given or Path(context.lake.root) / "checkpoints").resolve()  # registered: later runs start elsewhere


def _files(context: Context, days: Days, record: StageRecord) -> list[str]:
    record.read["user_features"] = context.lake.version("user_features")
    files = context.lake.active_files("user_features", record.read["user_features"], Where(days=days))
    record.rows["user_features"] = sum(file.rows for file in files)
    if not files:
        raise BadInput(f"user_features, {days}: no rows to train on; run `u2qt validate` and `u2qt build` for these days first")
    return [file.url for file in files]


def _refuse_other_fingerprint(context: Context, version: str, tokenizer: Tokenizer) -> None:
    for known in all_registered(context):
        if known.version == version and known.fingerprint != tokenizer.fingerprint:
            raise BadInput(
                f"tokenizer {version}: already registered with fingerprint {known.fingerprint[:16]}, this training gave "
                f"{tokenizer.fingerprint[:16]}; give another --tokenizer-version"
            )


def _register(context: Context, days: Days, version: str, folder: Path, tokenizer: Tokenizer, record: StageRecord) -> Registered:
    registered = Registered(
        version=version,
        fingerprint=tokenizer.fingerprint,
        checkpoint=str(folder),
        trained_from=days.first,
        trained_through=days.last,
        layout=json.loads((folder / "layout.json").read_text(encoding="utf-8")),
        metrics=dict(tokenizer.metrics),
    )
    if any(known.version == version for known in all_registered(context)):
        record.notes["skipped"] = "registered before with the same fingerprint"
        return registered
    _write_quality(context, registered, record)
    row = (
        version,
        registered.fingerprint,
        registered.checkpoint,
        days.first,
        days.last,
        json.dumps(registered.layout),
        json.dumps(registered.metrics),
        context.run_id,
    )
    frame = context.spark.createDataFrame([row], context.lake.read("tokenizers").schema).coalesce(1)
    record.written["tokenizers"] = context.lake.append("tokenizers", frame, {"run_id": context.run_id, "stage": record.stage})
    return registered


def _write_quality(context: Context, registered: Registered, record: StageRecord) -> None:
    """Before the registration, and replaced by a second try: no registered version is without."""
    rows = quality_rows(registered.version, registered.metrics, context.run_id)
    frame = context.spark.createDataFrame(rows, context.lake.read("codebook_quality").schema).coalesce(1)
    where = Where(equals=(("tokenizer_version", registered.version),))
    record.written["codebook_quality"] = context.lake.replace("codebook_quality", frame, where, {"run_id": context.run_id, "stage": record.stage})


if __name__ == "__main__":
    from jobs.cli import submit

    submit("train")
