"""A killed training goes on to the same result; a file of another run, or a damaged one, is never mistaken for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from u2qt_model import FeatureBatch, FeatureLayout, TokenizerConfig
from u2qt_model.errors import TrainingError
from u2qt_model.presets import tiny
from u2qt_model.train import train
from u2qt_model.training_state import RunFile

Open = Callable[[], Iterator[FeatureBatch]]


class Killed(BaseException):
    """As SIGINT, nothing that training could catch."""


class Stream:
    """Counts its openings; in one of them it dies after the first batch."""

    def __init__(self, open_stream: Open, dies_in: int = 0) -> None:
        self._open, self._dies_in, self.opened = open_stream, dies_in, 0

    def __call__(self) -> Iterator[FeatureBatch]:
        self.opened += 1
        for number, batch in enumerate(self._open()):
            if number and self.opened == self._dies_in:
                raise Killed
            yield batch


def _config(codebooks: str = "joint", hidden: int = 16, stage1: str = "text") -> TokenizerConfig:
    config = tiny(stage1=stage1)
    return replace(
        config,
        encoder=replace(config.encoder, hidden=hidden),
        quantizer=replace(config.quantizer, codebooks=codebooks, joint_rounds=2),
        training=replace(config.training, epochs=3, learning_rate=3e-3),
        qformer=replace(config.qformer, epochs=1),
    )


@pytest.mark.parametrize("dies_in", [2, 3, 4])
@pytest.mark.parametrize("config", [_config(), _config("ema"), _config("gradient", 0), _config("joint", 0)], ids=["joint", "ema", "gradient", "no networks"])
def test_killed_run_goes_on_to_the_same_tokenizer(layout: FeatureLayout, open_stream: Open, tmp_path: Path, config: TokenizerConfig, dies_in: int) -> None:
    """Killed in any of three epochs: same fingerprint and errors as undisturbed, without reading again what was done."""
    undisturbed = train(layout, config, open_stream)
    run_file = RunFile.of(tmp_path / "run", layout, config, "data")
    with pytest.raises(Killed):
        train(layout, config, Stream(open_stream, dies_in), run_file=run_file)
    rest = Stream(open_stream)
    found = train(layout, config, rest, run_file=run_file)
    assert found.fingerprint == undisturbed.fingerprint
    assert found.metrics["held_out_error_by_epoch"] == undisturbed.metrics["held_out_error_by_epoch"]
    assert found.metrics["sources"] == undisturbed.metrics["sources"]
    assert rest.opened == 5 - dies_in


def test_qformer_is_not_trained_again(layout: FeatureLayout, make_columns: Callable[..., dict], tmp_path: Path) -> None:  # type: ignore[type-arg]
    """Its weights are in the file too."""
    config = _config(stage1="qformer")
    batches = [FeatureBatch.from_columns(make_columns(100, seed), layout) for seed in range(2)]
    undisturbed = train(layout, config, lambda: iter(batches))
    run_file, whole = RunFile.of(tmp_path / "run", layout, config, "data"), Stream(lambda: iter(batches))
    train(layout, config, whole)
    with pytest.raises(Killed):
        train(layout, config, Stream(lambda: iter(batches), whole.opened), run_file=run_file)
    rest = Stream(lambda: iter(batches))
    assert train(layout, config, rest, run_file=run_file).fingerprint == undisturbed.fingerprint
    assert rest.opened == 1


def test_another_runs_file_is_not_used(layout: FeatureLayout, open_stream: Open, tmp_path: Path) -> None:
    """Other data, or another configuration: from the start, whatever the file holds."""
    config = _config()
    run_file = RunFile.of(tmp_path / "run", layout, config, "data")
    train(layout, config, open_stream, run_file=run_file)
    for other in (RunFile.of(tmp_path / "run", layout, config, "other data"), RunFile.of(tmp_path / "run", layout, _config("ema"), "data")):
        assert other.read() is None
    assert run_file.read() is not None
    run_file.remove()
    assert run_file.read() is None


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", b"\xff" * 64])
def test_damaged_file_is_named(layout: FeatureLayout, tmp_path: Path, content: bytes) -> None:
    """With the way out."""
    path = tmp_path / "run"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="delete the file to start over"):
        RunFile.of(path, layout, tiny(), "data").read()


def test_write_replaces_or_leaves(layout: FeatureLayout, tmp_path: Path) -> None:
    """A write that fails leaves the state before, and no scratch file."""
    run_file = RunFile.of(tmp_path / "deep" / "run", layout, tiny(), "data")
    run_file.write({"a": torch.ones(2)}, {"n": 1})
    with pytest.raises(TypeError):
        run_file.write({"a": torch.zeros(2)}, {"n": object()})
    tensors, facts = run_file.read() or ({}, {})
    assert (tensors["a"].tolist(), facts) == ([1.0, 1.0], {"n": 1})
    assert [path.name for path in run_file.path.parent.iterdir()] == ["run"]
