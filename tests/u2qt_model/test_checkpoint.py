"""A tokenizer as a folder: it comes back bit for bit, and anything changed or foreign is refused by name."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from u2qt_model import FeatureBatch, FeatureLayout, SourceLayout, Tokenizer, checkpoint
from u2qt_model.errors import CheckpointError
from u2qt_model.presets import tiny
from u2qt_model.train import train

FILES = ("model.safetensors", "config.json", "metrics.json", "layout.json")


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    return checkpoint.save(tokenizer, tmp_path / "v1")


@pytest.fixture(scope="module")
def kept_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """For tests that put back what they change."""
    return checkpoint.save(tokenizer, tmp_path_factory.mktemp("checkpoints") / "v1")


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
    for source in layout["sources"]:
        assert [level["shared_size"] > 0 for level in source["levels"]] == [True, True, False, False]


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


LONGER = SourceLayout(name="search_2", kind="events", num_ids=2, num_values=1, max_events=4)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"catalog": "other"}, "catalog: found 'test', expected 'other'"),
        ({"hash_buckets": 7}, "hash_buckets: found 1000, expected 7"),
        ({"sources": ()}, r"sources: found .*'search_2'.*expected \('bill', 'profile'\)"),
        ({"sources": (LONGER,)}, "source search_2: found .*'max_events': 3.*'max_events': 4"),
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


def test_bin_file_does_not_stand_in_for_safetensors(folder: Path) -> None:
    """Only one name is looked for."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: found nothing readable"):
        checkpoint.load(folder)


def test_infinity_in_the_layout_is_refused(folder: Path) -> None:
    """Python reads 1e999 and can't write it."""
    path = folder / "layout.json"
    path.write_bytes(path.read_bytes().replace(b'"hash_buckets": 1000', b'"hash_buckets": 1e999'))
    with pytest.raises(CheckpointError, match=r"layout\.json: found NaN or infinity, expected"):
        checkpoint.load(folder)


def test_fingerprint_does_not_depend_on_the_run(layout: FeatureLayout, open_stream: Callable[[], Iterator[FeatureBatch]], tmp_path: Path) -> None:
    """Weights, configuration and layout are equal byte for byte in two folders of two runs."""
    folders = [checkpoint.save(train(layout, tiny(), open_stream), tmp_path / name) for name in ("a", "b")]
    for name in FILES[:2]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
