"""`u2qt train` in two processes: by TorchDistributor and by torchrun, on the small published lakehouse."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from jobs import cli, train_rank, train_tokenizer
from jobs.context import Context
from jobs.errors import BadInput, Infrastructure
from jobs.registered_tokenizers import find_registered, load_registered
from jobs.training_processes import Processes, train_together
from schemas.keys import Days
from u2qt_model import presets
from u2qt_model.errors import TrainingError
from u2qt_model.training_job import TrainingJob

REPOSITORY = Path(__file__).resolve().parents[2]
TWO_DAYS = Days(date(2024, 1, 1), date(2024, 1, 2))
TWO = Processes(count=2)


def _torchrun(job: TrainingJob, file: Path, processes: int) -> subprocess.CompletedProcess[str]:
    file.write_text(job.to_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, "-m", "jobs.train_rank", str(file)], cwd=file.parent, env=environment, capture_output=True, text=True, check=False)


def test_two_processes_register_one_tokenizer(writable: Context, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Started by TorchDistributor, then the same job by torchrun: the same fingerprint, and nothing left beside the checkpoint."""
    checkpoints = tmp_path / "checkpoints"
    job = train_tokenizer.plan(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=checkpoints, processes=TWO)
    made = train_tokenizer.run(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=checkpoints, processes=TWO)
    assert "rank 0: epoch 2: " in capfd.readouterr().out
    assert [path.name for path in checkpoints.iterdir()] == ["pair"]
    alone = find_registered(writable, "v1")
    assert made.metrics["users"] == alone.metrics["users"]
    assert made.metrics["held_out_error"] == pytest.approx(alone.metrics["held_out_error"], rel=0.2)  # 60 users: see test_ranks for 2%
    done = _torchrun(job, tmp_path / "job.json", 2)
    assert done.returncode == 0, done.stderr
    again = train_tokenizer.run(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=checkpoints, processes=TWO)
    assert again.fingerprint == made.fingerprint == load_registered(find_registered(writable, "pair"), writable.catalog).fingerprint
    assert not Path(job.result).exists()


def test_a_rank_s_reason_reaches_the_caller(writable: Context, tmp_path: Path) -> None:
    """Row counts that don't add up are told as by one process, with the exit code of bad input."""
    job = train_tokenizer.plan(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=tmp_path, processes=TWO)
    wrong = replace(job, files=tuple(replace(file, row_groups=tuple(rows + 1 for rows in file.row_groups)) for file in job.files))
    with pytest.raises(TrainingError, match=r"found \d+ rows, expected"):
        train_together(writable.spark, wrong, "gloo")
    assert not wrong.failure.exists()


def test_a_job_for_two_is_not_trained_alone(writable: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The number of processes is part of the result."""
    job = train_tokenizer.plan(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=tmp_path, processes=TWO)
    (tmp_path / "job.json").write_text(job.to_json())
    with pytest.raises(SystemExit) as end:
        train_rank.main([str(tmp_path / "job.json")])
    assert end.value.code == 20
    assert "found 1 processes, expected 2" in capsys.readouterr().err


def test_a_job_is_written_for_torchrun(writable: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`u2qt train --job` writes it, says what to run, and trains nothing."""
    monkeypatch.setattr("jobs.session.build_session", lambda master=None, conf=None: writable.spark)
    monkeypatch.setattr(type(writable.spark), "stop", lambda self: None)
    file, common = tmp_path / "job.json", ("--root", writable.lake.root, "--checkpoints", str(tmp_path / "checkpoints"))
    days = ("--from", str(TWO_DAYS.first), "--to", str(TWO_DAYS.last), "--tokenizer-version", "pair", "--size", "tiny")
    assert cli.call(["train", *days, "--processes", "2", "--job", str(file), *common]) == 0
    assert f"torchrun --nproc-per-node 2 -m jobs.train_rank {file}" in capsys.readouterr().out
    planned = train_tokenizer.plan(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=tmp_path / "checkpoints", processes=TWO)
    assert TrainingJob.from_json(file.read_text()) == planned
    assert not (tmp_path / "checkpoints").exists()


def test_nccl_without_a_gpu_is_refused(writable: Context, tmp_path: Path) -> None:
    """Spark has no GPU to give."""
    job = train_tokenizer.plan(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=tmp_path, processes=TWO)
    with pytest.raises(Infrastructure, match="none could be started"):
        train_together(writable.spark, job, "nccl")


@pytest.mark.parametrize(("settings", "message"), [({"count": 0}, "--processes 0"), ({"backend": "mpi"}, "--backend mpi: expected gloo or nccl")])
def test_options_are_checked(settings: dict, message: str) -> None:  # type: ignore[type-arg]
    """Before anything is read."""
    with pytest.raises(BadInput, match=message):
        Processes(**settings)


def test_job_file_is_written_back_as_it_was(writable: Context, tmp_path: Path) -> None:
    """And names a result of its own for another number of processes, or other files."""
    job = train_tokenizer.plan(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=tmp_path, processes=TWO)
    assert TrainingJob.from_json(job.to_json()) == job
    assert json.loads(job.to_json())["processes"] == 2
    three = train_tokenizer.plan(writable, TWO_DAYS, "pair", presets.tiny(), checkpoints=tmp_path, processes=Processes(count=3))
    fewer = train_tokenizer.plan(writable, Days(TWO_DAYS.first, TWO_DAYS.first), "pair", presets.tiny(), checkpoints=tmp_path, processes=TWO)
    assert len({job.result, three.result, fewer.result}) == 3
