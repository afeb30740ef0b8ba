"""What the processes of `test_ranks` do, all cases in one start: checks of single operations, and trainings."""

import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_processes import write_json

from u2qt_model import FeatureBatch, FeatureLayout, SourceLayout, Tokenizer, TokenizerConfig
from u2qt_model.errors import TrainingError
from u2qt_model.presets import tiny
from u2qt_model.ranks import Ranks, grouped_ranks
from u2qt_model.samples import Moments, Reservoir
from u2qt_model.train import train
from u2qt_model.training_state import RunFile

NAMES = ("device", "profile")
LAYOUT = FeatureLayout(catalog="test", hash_buckets=1000, sources=tuple(SourceLayout(name=name, kind="profile", num_ids=1, num_values=16) for name in NAMES))
BATCHES = 12
FAIR, UNEQUAL, NOTHING = (range(0, 12, 2), range(1, 12, 2)), (range(9), range(9, 12)), (range(12), range(0))


def batch(number: int, users: int = 500) -> FeatureBatch:
    """Users whose two sources say the same 16 things, each in its own words; without clusters, so that seeds differ by 1% and not by 5%."""
    rng = np.random.default_rng(number)
    said = rng.normal(size=(users, 16))
    words = np.random.default_rng(99).normal(size=(2, 16, 16))
    columns: dict[str, Any] = {
        "user_id": np.array([f"user-{number}-{i}".encode() for i in range(users)], object),
        "row_hash": np.arange(users),
        "available_at": np.full(users, np.datetime64("2026-01-02T00:00:00", "us")),
    }
    for name, own in zip(NAMES, words, strict=True):
        columns |= {
            f"{name}_count": (rng.random(users) < 0.9).astype(np.int32),
            f"{name}_values": (said @ own + 0.3 * rng.normal(size=(users, 16))).astype(np.float32),
            f"{name}_ids": np.ones((users, 1), np.int32),
        }
    return FeatureBatch.from_columns(columns, LAYOUT)


def config(seed: int = 1, *, codebooks: str = "joint", **preset: Any) -> TokenizerConfig:
    """Reservoirs that hold a quarter of the slices."""
    made = tiny(seed=seed, **preset)
    return replace(made, quantizer=replace(made.quantizer, codebooks=codebooks), training=replace(made.training, slices_per_code=40))


KINDS: dict[str, dict[str, Any]] = {
    "depth": {},
    "width": {"layout": "width"},
    "rq_kmeans": {"quantizer": "rq_kmeans"},
    "ema": {"codebooks": "ema"},
    "gradient": {"codebooks": "gradient"},
}
SEEDS = (1, 2, 3)
SPLITS = {"fair": (FAIR, tuple(KINDS)), "unequal": (UNEQUAL, ("depth", "width")), "nothing": (NOTHING, ("depth", "rq_kmeans"))}


def summary(made: Tokenizer) -> dict[str, Any]:
    """What the tests compare."""
    counts = [[source["slices"], source["held_out_slices"]] for source in made.metrics["sources"].values()]
    return {"fingerprint": made.fingerprint, "error": made.metrics["held_out_error"], "users": made.metrics["users"], "slices": counts}


def work(number: int, folder: Path) -> None:
    """All cases; `folder/NUMBER.json` has what this rank found."""
    batches = [batch(i) for i in range(BATCHES)]
    torch.manual_seed(number)
    with grouped_ranks() as ranks:
        found: dict[str, Any] = {check.__name__: _outcome(check, ranks) for check in CHECKS}
        for split, (shares, kinds) in SPLITS.items():
            mine = [batches[i] for i in shares[number]]
            for kind in kinds:
                for seed in SEEDS:
                    found[f"{split} {kind} {seed}"] = summary(train(LAYOUT, config(seed, **KINDS[kind]), lambda mine=mine: iter(mine), ranks=ranks))
        mine = [batches[i] for i in FAIR[number]]
        found["again"] = summary(train(LAYOUT, config(), lambda: iter(mine), ranks=ranks))
        found["killed"] = _killed(ranks, mine, folder)
        found["other weights"] = _other_weights(ranks, mine)
    write_json(folder / f"{number}.json", found)


class Killed(BaseException):
    """As SIGINT, nothing that training could catch."""


def _killed(ranks: Ranks, mine: list[FeatureBatch], folder: Path) -> dict[str, Any]:
    """Dies in the second epoch, on all ranks at once; then goes on. Only the first rank's folder has the file."""
    run_file = RunFile.of(folder / str(ranks.number) / "run", LAYOUT, config(), "data")
    opened = []

    def stream(dies: bool) -> Iterator[FeatureBatch]:
        opened.append(1)
        if dies and len(opened) == 3:
            raise Killed
        yield from mine

    try:
        train(LAYOUT, config(), lambda: stream(True), run_file=run_file, ranks=ranks)
    except Killed:
        opened.clear()
    rest = train(LAYOUT, config(), lambda: stream(False), run_file=run_file, ranks=ranks)
    return {**summary(rest), "opened": len(opened), "has_file": run_file.path.exists()}


def _other_weights(ranks: Ranks, mine: list[FeatureBatch]) -> str:
    plain = config()
    rate = plain.training.learning_rate * (1 + ranks.number)
    try:
        train(LAYOUT, replace(plain, training=replace(plain.training, learning_rate=rate)), lambda: iter(mine), ranks=ranks)
    except TrainingError as error:
        return str(error)
    return "trained"


def _outcome(check: Callable[[Ranks], None], ranks: Ranks) -> str:
    try:
        check(ranks)
    except Exception:
        return traceback.format_exc()
    return "ok"


def rows_are_gathered_in_the_order_of_ranks(ranks: Ranks) -> None:
    """Any number of them, none too, of any type."""
    for lengths in ((2, 3), (0, 4), (4, 0), (0, 0)):
        mine = torch.arange(lengths[ranks.number])[:, None] + 10 * ranks.number
        assert ranks.gather(mine).tolist() == [[i] for i in range(lengths[0])] + [[10 + i] for i in range(lengths[1])]
    assert ranks.gather(torch.tensor([ranks.number == 1])).tolist() == [False, True]


def parts_make_the_whole(ranks: Ranks) -> None:
    """`whole` is the inverse of `mine`."""
    for length in range(6):
        x = torch.arange(2.0 * length).view(length, 2)
        assert ranks.whole(ranks.mine(x)).equal(x)
    assert (ranks.part(256), ranks.part(1)) == (128, 1)


def sums_are_in_place(ranks: Ranks) -> None:
    """One tensor or several, scalars too."""
    one, two, scalar = torch.ones(2, 2) * (1 + ranks.number), torch.arange(3.0), torch.tensor(2.0)
    ranks.add([one])
    ranks.add([two, scalar])
    ranks.add([])
    assert (one.tolist(), two.tolist(), scalar.item()) == ([[3, 3], [3, 3]], [0, 2, 4], 4)


def the_first_rank_s_tensors_are_shared(ranks: Ranks) -> None:
    """Bools, scalars, columns of something larger, parameters, empty ones."""
    flags, scalar, wide = torch.tensor([ranks.is_first] * 2), torch.tensor(ranks.number), torch.full((2, 2), ranks.number)
    weight = torch.nn.Parameter(torch.full((2,), float(ranks.number)))
    ranks.share([flags, scalar, wide[:, 0], weight, torch.zeros(0)])
    assert (flags.tolist(), scalar.item(), weight.tolist()) == ([True, True], 0, [0, 0])
    assert wide.tolist() == [[0, ranks.number]] * 2


def bytes_are_shared(ranks: Ranks) -> None:
    """None stays None, empty stays empty, whatever the others hold."""
    for content in (None, b"", b"abc"):
        assert ranks.share_bytes(content if ranks.is_first else b"other") == content


def ranks_that_ran_out_stay_in_step(ranks: Ranks) -> None:
    """With None, until all have."""
    assert list(ranks.in_step(iter(range(1 + 2 * ranks.number)))) == [[0, None, None], [0, 1, 2]][ranks.number]
    assert list(ranks.in_step(iter(()))) == []


def gradients_are_those_of_all_members(ranks: Ranks) -> None:
    """Also where a rank has none, and of a parameter that no rank reaches."""
    rows = torch.arange(10.0).view(5, 2)
    for cut in (2, 0, 5):
        weight, idle = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))
        mine = rows[:cut] if ranks.is_first else rows[cut:]
        if len(mine):
            (mine @ weight).square().mean().backward()  # type: ignore[no-untyped-call]
        ranks.average_gradients([weight, idle], len(mine))
        expected = torch.ones(2, requires_grad=True)
        (rows @ expected).square().mean().backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(weight.grad, expected.grad)
        assert idle.grad is None


def other_bits_are_refused(ranks: Ranks) -> None:
    """On every rank, by name of the ranks."""
    ranks.require_equal({"a": torch.ones(2)}, "here")
    with pytest.raises(TrainingError, match=r"^here: ranks \[1\] have other weights than rank 0"):
        ranks.require_equal({"a": torch.ones(2) + 1e-7 * ranks.number}, "here")


def reservoirs_become_one_sample(ranks: Ranks) -> None:
    """Of fixed size, the same on all ranks, from all of them as they had rows; small ones are kept whole."""
    for size, offered in ((50, (3000, 1000)), (50, (0, 100)), (50, (20, 10))):
        mine = Reservoir(size, 1, ranks.rng(3))
        mine.offer(np.arange(offered[ranks.number], dtype=np.float32)[:, None] + 10_000 * ranks.number)
        mine.merge(ranks)
        kept = mine.rows()[:, 0]
        assert len(np.unique(kept)) == len(kept) == min(size, sum(offered))
        second = (kept >= 10_000).mean()
        assert abs(second - offered[1] / sum(offered)) < 0.2
        assert ranks.gather(torch.from_numpy(kept)[None]).unique(dim=0).shape[0] == 1


def moments_become_those_of_all_rows(ranks: Ranks) -> None:
    """A rank without rows counts for nothing."""
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    whole, mine = Moments(3), Moments(3)
    whole.add(rows)
    mine.add(rows if ranks.number else rows[:0])
    mine.merge(ranks)
    assert mine.count == 40
    np.testing.assert_allclose([mine.mean(), mine.variance()], [whole.mean(), whole.variance()])


CHECKS = (
    rows_are_gathered_in_the_order_of_ranks,
    parts_make_the_whole,
    sums_are_in_place,
    the_first_rank_s_tensors_are_shared,
    bytes_are_shared,
    ranks_that_ran_out_stay_in_step,
    gradients_are_those_of_all_members,
    other_bits_are_refused,
    reservoirs_become_one_sample,
    moments_become_those_of_all_rows,
)
