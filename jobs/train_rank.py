"""One process of a training in several: `torchrun --nproc-per-node 2 -m jobs.train_rank JOB`, or Spark's TorchDistributor.

Reads its share of the job's row groups; the first rank writes the run file and the job's result, which `u2qt train` then
registers. Opens no Spark session. Idempotent: a job that has its result trains nothing.
"""

import argparse
import sys
from pathlib import Path

from jobs.errors import BadInput
from jobs.training_progress import line
from u2qt_model.errors import ModelError
from u2qt_model.progress import Progress
from u2qt_model.ranks import BACKENDS, grouped_ranks
from u2qt_model.training_job import TrainingJob, run_job


class Lines:
    """Says each finished phase and epoch on standard output."""

    def __init__(self) -> None:
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        if self._last is not None and (self._last.phase, self._last.epoch) != (progress.phase, progress.epoch):
            self.flush()
        self._last = progress

    def flush(self) -> None:
        """Says the last state."""
        if self._last is not None:
            sys.stdout.write(f"rank 0: {line(self._last)}\n")
            sys.stdout.flush()


def run_rank(job: TrainingJob, backend: str) -> None:
    """Trains in the group that this process was started in. An expected error is left in `job.failure`, for whoever started it."""
    if Path(job.result).exists():
        return
    lines = Lines()
    try:
        with grouped_ranks(backend) as ranks:
            run_job(job, ranks, lines)
    except ModelError as error:
        job.failure.write_text(f"{error}\n", encoding="utf-8")
        raise
    lines.flush()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="torchrun -m jobs.train_rank", description="One rank of a training; see docs/training.md.")
    parser.add_argument("job", type=Path, help="file that `u2qt train --job` wrote")
    parser.add_argument("--backend", choices=BACKENDS, default="gloo")
    given = parser.parse_args(arguments)
    try:
        run_rank(TrainingJob.from_json(given.job.read_text(encoding="utf-8")), given.backend)
    except (ModelError, OSError, ValueError) as error:
        sys.stderr.write(f"u2qt: {error}\n")
        raise SystemExit(BadInput.exit_code) from None


if __name__ == "__main__":
    main(sys.argv[1:])
