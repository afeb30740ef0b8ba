"""Two real processes (gloo on 127.0.0.1) train what one trains: the same rows, the same error, the same weights on both."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import rank_work
from rank_processes import together

from u2qt_model.errors import TrainingError
from u2qt_model.ranks import ALONE, grouped_ranks
from u2qt_model.train import train

Found = dict[str, Any]
CASES = [(split, kind) for split, (_, kinds) in rank_work.SPLITS.items() for kind in kinds]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    together(rank_work.work, 2, folder)
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]


@pytest.fixture(scope="module")
def alone() -> Found:
    """The same trainings by one process that reads all batches."""
    batches = [rank_work.batch(i) for i in range(rank_work.BATCHES)]
    kinds = [(kind, seed) for kind in rank_work.KINDS for seed in rank_work.SEEDS]
    made = {f"{kind} {seed}": train(rank_work.LAYOUT, rank_work.config(seed, **rank_work.KINDS[kind]), lambda: iter(batches)) for kind, seed in kinds}
    return {name: rank_work.summary(tokenizer) for name, tokenizer in made.items()}


@pytest.mark.parametrize("check", [check.__name__ for check in rank_work.CHECKS])
def test_operation(both: list[Found], check: str) -> None:
    """On both ranks."""
    assert [found[check] for found in both] == ["ok", "ok"]


@pytest.mark.parametrize(("split", "kind"), CASES)
def test_two_processes_reach_the_error_of_one(both: list[Found], alone: Found, split: str, kind: str) -> None:
    """Within 2%, as the mean of three seeds: fair shares, unequal ones, and a rank that has no rows."""
    errors = [mean(found[f"{prefix}{kind} {seed}"]["error"] for seed in rank_work.SEEDS) for found, prefix in ((both[0], f"{split} "), (alone, ""))]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


@pytest.mark.parametrize(("split", "kind"), CASES)
def test_ranks_agree(both: list[Found], alone: Found, split: str, kind: str) -> None:
    """On every weight and number; users are held out as by one process."""
    for seed in rank_work.SEEDS:
        found, single = [rank[f"{split} {kind} {seed}"] for rank in both], alone[f"{kind} {seed}"]
        assert found[0] == found[1]
        assert (found[0]["users"], found[0]["slices"]) == (single["users"], single["slices"])


def test_same_seed_gives_the_same_fingerprint(both: list[Found]) -> None:
    """With the same number of ranks; another seed gives another."""
    assert both[0]["again"] == both[0]["fair depth 1"]
    assert both[0]["again"]["fingerprint"] != both[0]["fair depth 2"]["fingerprint"]


def test_killed_ranks_go_on_to_the_same_tokenizer(both: list[Found]) -> None:
    """From the first one's file, which the other never sees; the epoch before isn't read again."""
    for number, found in enumerate(both):
        assert found["killed"]["fingerprint"] == both[0]["fair depth 1"]["fingerprint"]
        assert (found["killed"]["opened"], found["killed"]["has_file"]) == (1, number == 0)


def test_other_weights_stop_both(both: list[Found]) -> None:
    """Here by another learning rate; in life by another machine."""
    assert all("ranks [1] have other weights than rank 0, expected equal ones" in found["other weights"] for found in both)


def test_a_dying_rank_is_told(tmp_path: Path) -> None:
    """The harness of these tests isn't blind."""
    with pytest.raises(AssertionError, match="TrainingError: backend: found 'mpi'"):
        together(_unknown_backend, 1, tmp_path)


def _unknown_backend(number: int, folder: Path) -> None:
    with grouped_ranks("mpi"):
        pass


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set up; nccl is refused where there is no GPU."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with grouped_ranks() as ranks:
        assert ranks is ALONE
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(TrainingError, match="found nccl on a machine without a CUDA device"), grouped_ranks("nccl"):
        pass
