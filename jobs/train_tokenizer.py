"""train_tokenizer: a tokenizer learned from the feature rows of some days, frozen and registered under a version.

Reads user_features (one pinned version, streamed by Petastorm); writes a checkpoint folder, its rows of codebook_quality
and a row of tokenizers.
Key: tokenizer_version. Idempotent on the fingerprint: the same data, config and seed register nothing new; another
fingerprint under a registered version is refused. A killed run goes on after its last finished epoch, from a file beside the
checkpoints that belongs to the same files, configuration, version and number of processes. Memory is flat in users and days.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from jobs.context import Context
from jobs.delta_tables import Where
from jobs.errors import BadInput
from jobs.ledger import StageRecord, record_stage
from jobs.registered_tokenizers import Registered, checkpoint_folder, feature_layout
from jobs.tokenizer_registration import refuse_other_fingerprint, register
from jobs.training_processes import ALONE, Processes, train_together
from schemas import keys
from schemas.keys import Days
from u2qt_model import FeatureBatch, FeatureLayout, Tokenizer, TokenizerConfig, save
from u2qt_model.progress import Progress
from u2qt_model.stage_one import resolved
from u2qt_model.stream import read_files
from u2qt_model.train import train
from u2qt_model.training_job import TrainingJob
from u2qt_model.training_state import RunFile


def run(
    context: Context,
    days: Days,
    version: str,
    config: TokenizerConfig,
    *,
    checkpoints: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    processes: Processes = ALONE,
) -> Registered:
    """Trains on `days` and registers the result. `checkpoints` is where folders are kept (default: in a local lakehouse).

    `progress` is called for one process only; of several the first one writes to standard output.
    """
    keys.version(version)
    with record_stage(context, "train_tokenizer", days) as record:
        folder = checkpoint_folder(context, checkpoints) / version
        context.lake.require("codebook_quality")  # before the training, not after it
        files = _files(context, days, record)
        layout, state = feature_layout(context.catalog), folder.with_name(f".{version}.training")
        config = resolved(config)
        if processes.count == 1:
            tokenizer, left = _train_alone(layout, config, files, state, progress), [state]
        else:
            job = TrainingJob.of(layout, config, files, processes.count, folder)
            tokenizer, left = train_together(context.spark, job, processes.backend), [state, Path(job.result)]
        refuse_other_fingerprint(context, version, tokenizer)
        save(tokenizer, folder)
        registered = register(context, days, version, folder, tokenizer, record)
        for path in left:
            _remove(path)
        return registered


def plan(context: Context, days: Days, version: str, config: TokenizerConfig, *, checkpoints: Path | None, processes: Processes) -> TrainingJob:
    """The job that `run` would start with these arguments, for processes that somebody else starts; trains and registers nothing."""
    keys.version(version)
    files = _files(context, days, StageRecord(stage="train_tokenizer", days=days))
    return TrainingJob.of(feature_layout(context.catalog), resolved(config), files, processes.count, checkpoint_folder(context, checkpoints) / version)


def _train_alone(layout: FeatureLayout, config: TokenizerConfig, files: list[str], state: Path, progress: Callable[[Progress], None]) -> Tokenizer:
    def open_stream() -> Iterator[FeatureBatch]:
        return read_files(files, layout, events=config.reads_events)

    return train(layout, config, open_stream, progress, RunFile.of(state, layout, config, json.dumps(sorted(files))))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _files(context: Context, days: Days, record: StageRecord) -> list[str]:
    record.read["user_features"] = context.lake.version("user_features")
    files = context.lake.active_files("user_features", record.read["user_features"], Where(days=days))
    record.rows["user_features"] = sum(file.rows for file in files)
    if not files:
        raise BadInput(f"user_features, {days}: no rows to train on; run `u2qt validate` and `u2qt build` for these days first")
    return [file.url for file in files]


if __name__ == "__main__":
    from jobs.cli import submit

    submit("train")
