"""Starts the processes of a training by Spark's TorchDistributor: on this machine under a local master, else one per Spark task.

Knows nothing of tables: it is given a job and brings back the tokenizer.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession

import jobs
from jobs.errors import BadInput, Infrastructure
from u2qt_model import Tokenizer, load
from u2qt_model.errors import TrainingError
from u2qt_model.ranks import BACKENDS
from u2qt_model.training_job import TrainingJob

# A local group stays on the loopback, says its lines at once, and takes one thread a process unless the configuration says more.
LOCAL = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PET_LOCAL_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """How many processes train together, and by what they talk."""

    count: int = 1
    backend: str = "gloo"  # "gloo" | "nccl": the messages go from GPU to GPU

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadInput(f"--processes {self.count}: expected 1 or more")
        if self.backend not in BACKENDS:
            raise BadInput(f"--backend {self.backend}: expected {' or '.join(BACKENDS)}")


ALONE = Processes()


def train_together(spark: SparkSession, job: TrainingJob, backend: str) -> Tokenizer:
    """The job's result, trained now unless it is there. Raises TrainingError with a rank's own message, Infrastructure without one."""
    if not Path(job.result).exists():
        Path(job.result).parent.mkdir(parents=True, exist_ok=True)
        job.failure.unlink(missing_ok=True)
        _start(spark, job, backend)
    return load(job.result, expect_layout=job.layout)


def _start(spark: SparkSession, job: TrainingJob, backend: str) -> None:
    is_local = (spark.conf.get("spark.master") or "").startswith("local")
    try:
        with _environment(LOCAL if is_local and sys.platform == "linux" else {}):
            distributor = TorchDistributor(num_processes=job.processes, local_mode=is_local, use_gpu=backend == "nccl")
            distributor.run(_entry(), str(Path(jobs.__file__).parents[1]), job.to_json(), backend)
    except (RuntimeError, Py4JError) as error:
        if job.failure.exists():
            said = job.failure.read_text(encoding="utf-8").strip()
            job.failure.unlink()
            raise TrainingError(said) from error
        raise Infrastructure(f"training in {job.processes} processes: a process died or none could be started ({str(error)[-2000:]})") from error


def _entry() -> Callable[[str, str, str], None]:
    """What each process runs. A nested function travels by its code, so that it can find our package before it imports it."""

    def entry(root: str, job: str, backend: str) -> None:
        import os
        import sys

        sent = os.path.abspath(os.path.basename(root))  # --py-files lie in an executor's working directory
        sys.path.insert(0, sent if root.endswith(".zip") and os.path.exists(sent) else root)
        from jobs.train_rank import run_rank
        from u2qt_model.training_job import TrainingJob

        run_rank(TrainingJob.from_json(job), backend)

    return entry


@contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    """What is set already stands."""
    new = {name: value for name, value in added.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
