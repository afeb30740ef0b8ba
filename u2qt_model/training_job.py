"""A training in several processes, as a file that every rank reads: what to learn, from which row groups, where to put it.

Knows neither Spark nor who starts the processes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from u2qt_model.batch import FeatureBatch
from u2qt_model.checkpoint import save
from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.errors import TrainingError
from u2qt_model.json_form import canonical_json, from_plain, to_plain
from u2qt_model.progress import Progress
from u2qt_model.ranks import Ranks
from u2qt_model.stream import StreamUnit, read_units, row_group_rows
from u2qt_model.train import train
from u2qt_model.training_state import RunFile


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFile:
    """One Parquet file of a pinned table version."""

    url: str
    row_groups: tuple[int, ...]  # rows of each


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """Everything that decides the result, and two places that all ranks know by the same path."""

    layout: FeatureLayout
    config: TokenizerConfig
    files: tuple[TrainingFile, ...]
    processes: int
    state: str  # the run file, kept by the first rank
    result: str  # the checkpoint's folder, of this job only: written by the first rank once training is over

    @classmethod
    def of(cls, layout: FeatureLayout, config: TokenizerConfig, urls: Sequence[str], processes: int, target: Path) -> "TrainingJob":
        """State and result lie beside `target`, the folder that the checkpoint is meant for."""
        files = tuple(TrainingFile(url=url, row_groups=row_group_rows(url)) for url in sorted(urls))
        described = canonical_json([to_plain(part) for part in (layout, config, files, processes)])
        name = f".{target.name}.trained-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
        state = target.with_name(f".{target.name}.training")
        return cls(layout=layout, config=config, files=files, processes=processes, state=str(state), result=str(target.with_name(name)))

    @property
    def failure(self) -> Path:
        """Where a rank that stops for a reason leaves its message."""
        return Path(f"{self.result}.error")

    def to_json(self) -> str:
        """Canonical JSON; the inverse of `from_json`."""
        return canonical_json(to_plain(self))

    @classmethod
    def from_json(cls, text: str) -> "TrainingJob":
        """The job that `to_json` wrote; ConfigError names what is unknown, missing or mistyped."""
        return from_plain(cls, json.loads(text), "job")


def row_group_shares(files: Sequence[TrainingFile], ranks: int) -> list[list[StreamUnit]]:
    """Each rank's row groups: in their order, every one to the rank that has the fewest rows so far, the lowest on ties.

    Ranks get nothing where there are fewer row groups than ranks.
    """
    shares: list[list[StreamUnit]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for file in files:
        for shard, rows in enumerate(file.row_groups):
            least = load.index(min(load))
            shares[least].append(StreamUnit(url=file.url, shard=shard, shards=len(file.row_groups), rows=rows))
            load[least] += rows
    return shares


def run_job(job: TrainingJob, ranks: Ranks, progress: Callable[[Progress], None] = lambda _: None) -> None:
    """One rank's part; `job.result` is there when the first rank's ends. TrainingError for another number of ranks than the job's."""
    if ranks.count != job.processes:
        raise TrainingError(f"ranks: found {ranks.count} processes, expected {job.processes} as the job says; write the job anew for {ranks.count}")
    units = row_group_shares(job.files, ranks.count)[ranks.number]

    def open_stream() -> Iterator[FeatureBatch]:
        return read_units(units, job.layout, events=job.config.reads_events)

    run_file = RunFile.of(Path(job.state), job.layout, job.config, job.result)
    tokenizer = train(job.layout, job.config, open_stream, progress, run_file, ranks)
    if ranks.is_first:
        save(tokenizer, job.result)
