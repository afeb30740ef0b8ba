"""Folders of models: where they are looked for, what is refused before anything is loaded, what their content is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from u2qt_model.errors import EncoderError
from u2qt_model.model_folders import checked_modules, content_sha256, missing_extra, model_folder

TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}
DENSE = {"path": "2_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two modules with weights, none of them real."""
    made = tmp_path / "models" / "a"
    (made / "2_Dense").mkdir(parents=True)
    (made / "modules.json").write_text(json.dumps([TRANSFORMER, DENSE]))
    for path in ("model.safetensors", "2_Dense/model.safetensors", "config.json", "tokenizer.json"):
        (made / path).write_text(path)
    return made


def test_names_are_looked_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a path, or by the last part of the name in $U2QT_TEXT_MODELS, which goes first."""
    assert model_folder(str(folder)) == folder
    for name in ("somebody/a", "/gone/a"):
        with monkeypatch.context() as patched:
            patched.setenv("U2QT_TEXT_MODELS", str(folder.parent))
            assert model_folder(name) == folder
    with pytest.raises(EncoderError, match=r"found no folder /gone/a, expected .*U2QT_TEXT_MODELS"):
        model_folder("/gone/a")
    with pytest.raises(EncoderError, match=r"text_model\.model: found none"):
        model_folder("")


def test_hub_names_are_found_in_its_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline; a name that isn't there says what to do."""
    constants = pytest.importorskip("huggingface_hub.constants")
    kept = tmp_path / "hub" / "models--somebody--b"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, kept / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_folder("somebody/b") == kept / "snapshots" / ("0" * 40)
    with pytest.raises(EncoderError, match="found somebody/else neither as a folder nor on this machine"):
        model_folder("somebody/else")


def test_modules_are_listed(folder: Path) -> None:
    """A plain language model has no list, and passes where none is required."""
    assert checked_modules(folder) == ["", "2_Dense"]
    (folder / "modules.json").unlink()
    assert checked_modules(folder, required=False) == [""]
    with pytest.raises(EncoderError, match=r"found no modules\.json, expected .*text_model\.pooling"):
        checked_modules(folder)


def _listed(modules: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), r"found pytorch_model\.bin, expected \*\.safetensors"),
        (lambda folder: (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "x.pt"), r"2_Dense: found x\.pt"),
        (lambda folder: (folder / "model.safetensors").unlink(), "found no weights"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "found adapter_config.json, expected a whole model"),
        (lambda folder: (folder / "modules.json").write_text("{"), "found no JSON"),
        (_listed({}), "found no list of modules"),
        (_listed([]), "found no list of modules"),
        (_listed([TRANSFORMER | {"type": "custom.Transformer"}]), "found module custom.Transformer, expected"),
        (_listed([TRANSFORMER | {"type": "sentence_transformers.models.WordEmbeddings"}]), "found module .*WordEmbeddings"),
        (_listed([TRANSFORMER, DENSE | {"path": "../b"}]), r"found path \.\./b, expected one inside"),
    ],
)
def test_unsafe_folder_is_refused(folder: Path, spoil: Callable[[Path], object], word: str) -> None:
    """Pickled weights, foreign code, adapters, paths that lead out."""
    spoil(folder)
    with pytest.raises(EncoderError, match=word):
        checked_modules(folder)


def test_pickled_leftovers_beside_safetensors_are_left_alone(folder: Path) -> None:
    """They are never opened."""
    (folder / "training_args.bin").write_text("anything")
    assert checked_modules(folder) == ["", "2_Dense"]


def test_content_is_names_and_bytes(folder: Path, tmp_path: Path) -> None:
    """Not the path, nor what decides no vector; a byte in any module is another content."""
    paths = ["", "2_Dense"]
    first = content_sha256(folder, paths)
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copied / "README.md").write_text("words")
    (copied / "onnx").mkdir()
    (copied / "onnx" / "config.json").write_text("{}")
    assert content_sha256(copied, paths) == first
    for name in ("2_Dense/model.safetensors", "tokenizer.json", "config.json"):
        before = (copied / name).read_text()
        (copied / name).write_text(before + " ")
        assert content_sha256(copied, paths) != first
        (copied / name).write_text(before)
    (copied / "vocab.txt").write_text("")
    assert content_sha256(copied, paths) != first


def test_the_missing_extra_is_named() -> None:
    """With the command that installs it."""
    assert "found no torchless, expected the extra `text`; install it with pip install 'u2qt[text]'" in str(missing_extra(ImportError(name="torchless")))
