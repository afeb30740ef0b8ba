"""A tokenizer as a folder: it comes back bit for bit, and anything changed or foreign is refused by name."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from u2qt_model import FeatureBatch, FeatureLayout, SourceLayout, Tokenizer, checkpoint
from u2qt_model.errors import CheckpointError

FILES = ("model.safetensors", "config.json", "metrics.json", "layout.json")


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    return checkpoint.save(tokenizer, tmp_path / "v1")


@pytest.fixture(scope="module")
def kept_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """For tests that put back what they change."""
    return checkpoint.save(tokenizer, tmp_path_factory.mktemp("checkpoints") / "v1")


def _reseal(folder: Path, **changes: Any) -> None:
    """Recomputes every checksum, as a forger would; `changes` to layout.json."""
    layout = json.loads((folder / "layout.json").read_bytes()) | changes
    layout["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES[:3]}
    del layout["sha256"]
    seal = hashlib.sha256(_rendered(layout)).hexdigest()
    (folder / "layout.json").write_bytes(_rendered({**layout, "sha256": seal}))


def _rendered(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_bytes())
    edit(content)
    path.write_bytes(_rendered(content))


@pytest.mark.parametrize("which", ["tokenizer", "baseline"])
def test_saved_tokenizer_comes_back(request: pytest.FixtureRequest, tmp_path: Path, make_batch: Callable[..., FeatureBatch], which: str) -> None:
    """Same fingerprint, configuration, metrics, codes and vectors."""
    trained: Tokenizer = request.getfixturevalue(which)
    loaded = checkpoint.load(checkpoint.save(trained, tmp_path / "a" / "b"), trained.layout)
    assert loaded.fingerprint == trained.fingerprint
    assert (loaded.config, loaded.layout, loaded.metrics) == (trained.config, trained.layout, trained.metrics)
    codes = trained.encode(make_batch(50, 5))
    np.testing.assert_array_equal(loaded.encode(make_batch(50, 5)), codes)
    np.testing.assert_array_equal(loaded.decode(codes), trained.decode(codes))


def test_folder_holds_four_files_and_layout_describes_the_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """layout.json can be read without this package."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["v1"]
    layout = json.loads((folder / "layout.json").read_text())
    assert layout["fingerprint"] == tokenizer.fingerprint
    assert [level["shared"] for level in layout["levels"]] == [True, True, False, False]


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_every_changed_byte_is_refused(kept_folder: Path, name: str, place: float, flip: int) -> None:
    """Anywhere in any file; the message names the file, found and expected."""
    path = kept_folder / name
    original = path.read_bytes()
    changed = bytearray(original)
    changed[int(place * len(changed))] ^= flip
    path.write_bytes(changed)
    try:
        with pytest.raises(CheckpointError, match=rf"{name}: found .*expected") as caught:
            checkpoint.load(kept_folder)
        assert str(kept_folder) in str(caught.value)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused(folder: Path, name: str) -> None:
    """By name; a folder in its place is no better."""
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: found nothing readable"):
        checkpoint.load(folder)
    (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{name}: found nothing readable"):
        checkpoint.load(folder)


def test_appended_and_cut_files_are_refused(folder: Path) -> None:
    """Also by one byte."""
    for name in FILES:
        original = (folder / name).read_bytes()
        for changed in (original + b"\n", original[:-1], b""):
            (folder / name).write_bytes(changed)
            with pytest.raises(CheckpointError, match=name):
                checkpoint.load(folder)
        (folder / name).write_bytes(original)
    checkpoint.load(folder)


SOURCE = {"kind": "events", "num_ids": 2, "num_values": 1, "max_events": 3}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"catalog": "other"}, "catalog: found 'test', expected 'other'"),
        ({"hash_buckets": 7}, "hash_buckets: found 1000, expected 7"),
        ({"sources": ()}, r"sources: found .*'search_2'.*expected \('bill', 'profile'\)"),
        ({"sources": (SourceLayout(name="search_2", **SOURCE | {"max_events": 4}),)}, "source search_2: found .*'max_events': 3.*'max_events': 4"),
    ],
)
def test_foreign_layout_is_refused(folder: Path, layout: FeatureLayout, change: dict[str, Any], word: str) -> None:
    """Another catalog, other sources, other shapes."""
    first, last = layout.sources[0], layout.sources[-1]
    sources = (first, *change.get("sources", layout.sources[1:-1]), last)
    expected = FeatureLayout(**{"catalog": "test", "hash_buckets": 1000, **change, "sources": sources})
    with pytest.raises(CheckpointError, match=rf"config\.json: {word}"):
        checkpoint.load(folder, expected)


def test_same_tokenizer_may_be_saved_again(folder: Path, tokenizer: Tokenizer) -> None:
    """Nothing is rewritten."""
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert checkpoint.save(tokenizer, folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_other_tokenizer_does_not_overwrite(folder: Path, tokenizer: Tokenizer, baseline: Tokenizer) -> None:
    """A version is one fingerprint for ever."""
    with pytest.raises(CheckpointError, match=f"found fingerprint {tokenizer.fingerprint}, expected {baseline.fingerprint}"):
        checkpoint.save(baseline, folder)
    assert checkpoint.load(folder).fingerprint == tokenizer.fingerprint


def test_foreign_folder_and_file_are_not_overwritten(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """An empty folder is fine, one with something else isn't."""
    (tmp_path / "empty").mkdir()
    checkpoint.save(tokenizer, tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("other", "file"):
        with pytest.raises(CheckpointError, match=name):
            checkpoint.save(tokenizer, tmp_path / name)
    assert (tmp_path / "file").read_text() == (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_interrupted_save_leaves_nothing(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it or nothing, also when the disk is full."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.save(tokenizer, tmp_path / "v1")
    assert list(tmp_path.iterdir()) == []


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_pickled_weights_are_refused_and_never_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """Even with every checksum made right."""
    monkeypatch.chdir(tmp_path)
    torch.save(tokenizer.weights, tmp_path / "weights.bin")
    for content in ((tmp_path / "weights.bin").read_bytes(), pickle.dumps(_Bomb())):
        (folder / "model.safetensors").write_bytes(content)
        _reseal(folder)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: found no safetensors.*expected the tokenizer's weights"):
            checkpoint.load(folder)
    assert not (tmp_path / "exploded").exists()


def test_bin_file_does_not_stand_in_for_safetensors(folder: Path) -> None:
    """Only one name is looked for."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: found nothing readable"):
        checkpoint.load(folder)


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
    """Other values, a missing tensor, another shape or type, behind right checksums."""
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
    """Another seed, a mistyped one, another text encoder, no layout, behind right checksums."""
    _edit_json(folder / "config.json", edit)
    _reseal(folder)
    with pytest.raises(CheckpointError, match=word):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", FILES[1:3])
@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe"])
def test_files_that_are_no_objects_are_refused(folder: Path, name: str, content: bytes) -> None:
    """Behind right checksums too."""
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


def test_infinity_in_the_layout_is_refused(folder: Path) -> None:
    """Python reads 1e999 and can't write it."""
    path = folder / "layout.json"
    path.write_bytes(path.read_bytes().replace(b'"hash_buckets": 1000', b'"hash_buckets": 1e999'))
    with pytest.raises(CheckpointError, match=r"layout\.json: found NaN or infinity, expected"):
        checkpoint.load(folder)


def test_metrics_are_not_part_of_the_fingerprint(folder: Path, tokenizer: Tokenizer) -> None:
    """But their bytes are guarded by the checksum."""
    _edit_json(folder / "metrics.json", lambda metrics: metrics.update(note="measured again"))
    with pytest.raises(CheckpointError, match=r"metrics\.json"):
        checkpoint.load(folder)
    _reseal(folder)
    assert checkpoint.load(folder).fingerprint == tokenizer.fingerprint


def test_fingerprint_does_not_depend_on_the_run(layout: FeatureLayout, open_stream: Callable[[], Iterator[FeatureBatch]], tmp_path: Path) -> None:
    """Weights, configuration and layout are equal byte for byte in two folders of two runs."""
    from u2qt_model.presets import tiny
    from u2qt_model.train import train

    folders = [checkpoint.save(train(layout, tiny(), open_stream), tmp_path / name) for name in ("a", "b")]
    for name in FILES[:2]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
