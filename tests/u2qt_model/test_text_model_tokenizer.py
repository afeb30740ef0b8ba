"""A tokenizer over a sentence-transformers model, from training to a loaded checkpoint."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.u2qt_model.conftest import save_qwen
from u2qt_model import FeatureBatch, FeatureLayout, Tokenizer, TokenizerConfig, checkpoint
from u2qt_model.errors import CheckpointError
from u2qt_model.presets import tiny
from u2qt_model.settings import with_settings
from u2qt_model.train import train

OpenStream = Callable[[], Iterator[FeatureBatch]]
MakeBatch = Callable[..., FeatureBatch]


def config_of(folder: Path) -> TokenizerConfig:
    return with_settings(tiny(), ["text.kind=sentence-transformers", f"text_model.model={folder}", "text_model.prompt=Query:", "training.epochs=1"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, qwen: Path) -> Path:
    """A folder of its own, which tests move and change."""
    return Path(shutil.copytree(qwen, tmp_path_factory.mktemp("kept") / "qwen"))


@pytest.fixture(scope="module")
def trained(layout: FeatureLayout, open_stream: OpenStream, model: Path) -> Tokenizer:
    return train(layout, config_of(model), open_stream)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trained: Tokenizer) -> Path:
    return checkpoint.save(trained, tmp_path_factory.mktemp("checkpoints") / "v1")


def test_checkpoint_comes_back_and_names_the_model(folder: Path, trained: Tokenizer, model: Path, make_batch: MakeBatch) -> None:
    """Same fingerprint and codes; the identity is the model's content. Absent slices have no codes, also with an empty text."""
    loaded, batch = checkpoint.load(folder, trained.layout), make_batch(60, 7)
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.text_encoder_identity["sha256"] == trained.config.text_model.sha256 != ""
    codes = trained.encode(batch)
    np.testing.assert_array_equal(loaded.encode(batch), codes)
    for source, name in enumerate(trained.layout.source_names):
        np.testing.assert_array_equal(codes[:, source, 0] >= 0, batch.slices[name].present)


def test_codes_do_not_depend_on_the_batch(trained: Tokenizer, make_columns: Callable[..., dict[str, np.ndarray]], layout: FeatureLayout) -> None:
    """Rows alone give what they give together; margins too."""
    columns = make_columns(24, 8)
    batch = FeatureBatch.from_columns(columns, layout)
    codes, margins = trained.encode_with_margins(batch)
    for row in range(batch.num_users):
        alone, its_margins = trained.encode_with_margins(FeatureBatch.from_columns({name: column[[row]] for name, column in columns.items()}, layout))
        np.testing.assert_array_equal(alone[0], codes[row])
        np.testing.assert_array_equal(its_margins[0], margins[row])


def test_fingerprint_is_of_the_content_not_of_the_place(
    trained: Tokenizer, layout: FeatureLayout, open_stream: OpenStream, model: Path, tmp_path: Path
) -> None:
    """Trained from a copy elsewhere it is the same; with another prompt it isn't."""
    copied = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    assert train(layout, config_of(copied), open_stream).fingerprint == trained.fingerprint
    assert trained.config.without_places != replace(trained.config, text_model=replace(trained.config.text_model, prompt="")).without_places


def test_moved_model_is_found_again(folder: Path, trained: Tokenizer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By $U2QT_TEXT_MODELS; without it the error says so."""
    moved = model.rename(tmp_path / "qwen")
    try:
        with pytest.raises(CheckpointError, match=rf"config\.json: text_model\.model: found no folder {model}, expected .*U2QT_TEXT_MODELS"):
            checkpoint.load(folder)
        monkeypatch.setenv("U2QT_TEXT_MODELS", str(tmp_path))
        assert checkpoint.load(folder).fingerprint == trained.fingerprint
    finally:
        moved.rename(model)


def test_other_content_in_the_model_s_folder_is_refused(folder: Path, model: Path) -> None:
    """One byte of its weights."""
    weights = model / "model.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"config\.json: text encoder .*qwen: found files of sha256 .*, expected .*; put the model it was trained with"
        ):
            checkpoint.load(folder)
    finally:
        weights.write_bytes(original)
    checkpoint.load(folder)


def test_model_of_another_width_is_refused(folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found, expected, way out."""
    wide = save_qwen(tmp_path / "qwen", ends=True, width=64)
    for name in ("modules.json", "config_sentence_transformers.json"):
        shutil.copy(model / name, wide / name)
    (wide / "1_Pooling").mkdir()
    (wide / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 64, "pooling_mode_lasttoken": true}')
    monkeypatch.setenv("U2QT_TEXT_MODELS", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"config\.json: text encoder .*: found width 64, expected 32; put the model .* or train a new version"):
        checkpoint.load(folder)
