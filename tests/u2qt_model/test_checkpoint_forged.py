"""Checkpoints forged with every checksum made right: what can't be a tokenizer of this package is still refused."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from u2qt_model import Tokenizer, checkpoint
from u2qt_model.errors import CheckpointError

FILES = ("model.safetensors", "config.json", "metrics.json")


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    return checkpoint.save(tokenizer, tmp_path / "v1")


def _reseal(folder: Path, **changes: Any) -> None:
    """Recomputes every checksum, as a forger would; `changes` to layout.json."""
    layout = json.loads((folder / "layout.json").read_bytes()) | changes
    layout["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    del layout["sha256"]
    seal = hashlib.sha256(_rendered(layout)).hexdigest()
    (folder / "layout.json").write_bytes(_rendered({**layout, "sha256": seal}))


def _rendered(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_bytes())
    edit(content)
    path.write_bytes(_rendered(content))


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_pickled_weights_are_refused_and_never_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """Neither torch's format nor a bare pickle."""
    monkeypatch.chdir(tmp_path)
    torch.save(tokenizer.weights, tmp_path / "weights.bin")
    for content in ((tmp_path / "weights.bin").read_bytes(), pickle.dumps(_Bomb())):
        (folder / "model.safetensors").write_bytes(content)
        _reseal(folder)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: found no safetensors.*expected the tokenizer's weights"):
            checkpoint.load(folder)
    assert not (tmp_path / "exploded").exists()


def _double(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor * 2 if name == "projections.0.basis" else tensor for name, tensor in weights.items()}


def _lose(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in weights.items() if name != "projections.0.basis"}


def _cut(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, "projections.0.basis": weights["projections.0.basis"][:-1].clone()}


def _retype(weights: dict[str, Any]) -> dict[str, Any]:
    return {**weights, "projections.0.basis": weights["projections.0.basis"].double()}


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (_double, r"layout\.json: found fingerprint .*expected"),
        (_lose, r"projections\.0\.basis: found None, expected torch\.float32 \(256, 32\)"),
        (_cut, r"found torch\.float32 \(255, 32\), expected torch\.float32 \(256, 32\)"),
        (_retype, r"found torch\.float64 .*expected torch\.float32"),
    ],
)
def test_foreign_weights_are_refused(folder: Path, edit: Callable[[dict[str, Any]], dict[str, Any]], word: str) -> None:
    """Other values, a missing tensor, another shape or type."""
    path = folder / "model.safetensors"
    path.write_bytes(save(edit(load(path.read_bytes()))))
    _reseal(folder)
    with pytest.raises(CheckpointError, match=word):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda config: config["tokenizer"]["training"].update(seed=9), r"layout\.json: found fingerprint"),
        (lambda config: config["tokenizer"]["training"].update(seed="9"), r"config\.json: config\.training\.seed: found '9'"),
        (lambda config: config["text_encoder"].update(pattern="."), r"config\.json: found text encoder"),
        (lambda config: config.pop("layout"), r"config\.json: layout: found NoneType"),
        (lambda config: config["layout"].update(catalog="other"), r"layout\.json: found fingerprint"),
    ],
)
def test_foreign_config_is_refused(folder: Path, edit: Callable[[dict[str, Any]], object], word: str) -> None:
    """Another seed, a mistyped one, another text encoder, no layout."""
    _edit_json(folder / "config.json", edit)
    _reseal(folder)
    with pytest.raises(CheckpointError, match=word):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe", b"[" * 50_000, b"9" * 5000], ids=["list", "half", "no UTF-8", "deep", "huge number"])
def test_files_that_are_no_objects_are_refused(folder: Path, name: str, content: bytes) -> None:
    """A list, cut off, not UTF-8."""
    (folder / name).write_bytes(content)
    _reseal(folder)
    with pytest.raises(CheckpointError, match=rf"{name}: found .*expected an object"):
        checkpoint.load(folder)


def test_other_format_and_other_numbering_are_refused(folder: Path) -> None:
    """A later format, and levels that aren't the weights'."""
    _reseal(folder, format=2)
    with pytest.raises(CheckpointError, match=r"layout\.json: found format 2, expected 1"):
        checkpoint.load(folder)
    _reseal(folder, format=1, vocabulary_size=5)
    with pytest.raises(CheckpointError, match=r"layout\.json: found fingerprint .* levels"):
        checkpoint.load(folder)


def test_metrics_are_not_part_of_the_fingerprint(folder: Path, tokenizer: Tokenizer) -> None:
    """But their bytes are guarded by the checksum."""
    _edit_json(folder / "metrics.json", lambda metrics: metrics.update(note="measured again"))
    with pytest.raises(CheckpointError, match=r"metrics\.json"):
        checkpoint.load(folder)
    _reseal(folder)
    assert checkpoint.load(folder).fingerprint == tokenizer.fingerprint
