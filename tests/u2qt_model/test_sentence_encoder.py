"""Real and tiny models: the vectors of the package, in any company the same, and only of the model that was meant."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.u2qt_model.conftest import save_qwen
from u2qt_model.errors import EncoderError
from u2qt_model.sentence_encoder import SentenceEncoder
from u2qt_model.text_config import TextModelConfig
from u2qt_model.threads import fixed_threads

TEXTS = ["red apple (fruit) paid 3", "", "\u7ea2\u8272\u7684\u8f66", "item1 kind1 paid 2; " * 4, "green tea", "x " * 400, "red apples, paid 4"]
BYTES = [text.encode() for text in TEXTS]
PROMPT = "Instruct: extract text features of user data\nQuery:"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As tokenizers run them by default."""
    with fixed_threads(1):
        yield


def encoder_of(folder: Path, config: TextModelConfig | None = None) -> SentenceEncoder:
    return SentenceEncoder(replace(config or TextModelConfig(block_tokens=128), model=str(folder)))


def package_vectors(folder: Path, texts: Sequence[str], prompt: str) -> np.ndarray:
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return np.asarray(model.encode(list(texts), prompt=prompt, batch_size=len(texts), show_progress_bar=False))


def test_minilm_gives_the_package_s_vectors(minilm: Path) -> None:
    """Float32 (N, 384) of unit length; meaning shows."""
    found = encoder_of(minilm).encode(BYTES)
    assert (found.dtype, found.shape) == (np.float32, (7, 384))
    np.testing.assert_allclose(found, package_vectors(minilm, TEXTS, ""), atol=2e-6)
    assert found[0] @ found[6] > 0.8 > 0.4 > found[0] @ found[2]


def test_qwen_gives_the_package_s_vectors(qwen: Path) -> None:
    """Prompt and last token, whatever side the package pads."""
    config = TextModelConfig(prompt_name="query", max_tokens=1024, block_tokens=128)
    np.testing.assert_allclose(encoder_of(qwen, config).encode(BYTES), package_vectors(qwen, TEXTS, PROMPT), atol=2e-6)


def test_qwen_gives_the_hidden_state_of_the_end_token(qwen: Path, plain_qwen: Path) -> None:
    """Computed without padding by transformers alone; the plain folder needs a pooling, and scales nothing."""
    import transformers

    tokenizer, model = transformers.AutoTokenizer.from_pretrained(qwen), transformers.AutoModel.from_pretrained(qwen)
    ids = [tokenizer(PROMPT + text, return_tensors="pt")["input_ids"][:, :2047] for text in TEXTS]
    with torch.inference_mode():
        last = [model(input_ids=row).last_hidden_state[0, -1].numpy() for row in ids]
    config = TextModelConfig(prompt=PROMPT, max_tokens=2048)
    plain = encoder_of(plain_qwen, replace(config, pooling="lasttoken")).encode(BYTES)
    np.testing.assert_allclose(plain, last, atol=1e-5)
    np.testing.assert_allclose(encoder_of(qwen, config).encode(BYTES), last / np.linalg.norm(last, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("which", ["minilm", "qwen"])
def test_vectors_do_not_depend_on_the_batch(request: pytest.FixtureRequest, which: str) -> None:
    """Bit for bit alone, in another order, among others of other lengths."""
    encoder = encoder_of(request.getfixturevalue(which))
    together = encoder.encode(BYTES)
    np.testing.assert_array_equal(encoder.encode(BYTES[::-1])[::-1], together)
    np.testing.assert_array_equal(np.concatenate([encoder.encode([text]) for text in BYTES]), together)
    more = [f"{word} {number}".encode() for number, word in enumerate([*TEXTS[:5], *TEXTS])]
    np.testing.assert_array_equal(encoder.encode([*more, *BYTES])[len(more) :], together)


def test_no_texts_and_no_tokens(minilm: Path, plain_qwen: Path) -> None:
    """(0, E); zeros where a tokenizer gives an empty text no token."""
    assert encoder_of(minilm).encode([]).shape == (0, 384)
    found = encoder_of(plain_qwen, TextModelConfig(pooling="mean")).encode([b"", b"a"])
    assert not found[0].any()
    assert found[1].any()


def test_bfloat16_is_near_float32(minilm: Path) -> None:
    """And another identity."""
    exact, near = encoder_of(minilm), encoder_of(minilm, TextModelConfig(precision="bfloat16", block_tokens=128))
    cosines = (exact.encode(BYTES[:5]) * near.encode(BYTES[:5])).sum(axis=1)
    assert (cosines > 0.995).all()
    assert exact.identity != near.identity


def test_what_was_found_is_kept(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, width, block, precision; resolving again changes nothing, and a copy elsewhere is the same model."""
    first = encoder_of(qwen, TextModelConfig())
    found = first.config
    assert (found.model, found.width, found.block_tokens, found.precision, len(found.sha256)) == (str(qwen), 32, 512, "float32", 64)
    assert SentenceEncoder(found).config == found
    shutil.copytree(qwen, tmp_path / qwen.name)
    assert encoder_of(tmp_path / qwen.name, TextModelConfig()).identity == first.identity
    monkeypatch.setenv("U2QT_TEXT_MODELS", str(tmp_path))
    assert SentenceEncoder(replace(found, model="/gone/qwen")).identity == first.identity
    assert first.library.startswith("sentence-transformers ")


def test_another_model_is_refused(qwen: Path, tmp_path: Path) -> None:
    """By its width, else by its content; the message has both sides and the way out."""
    found = encoder_of(qwen).config
    wide, other = (save_qwen(tmp_path / name, ends=False, width=width, seed=1) for name, width in (("wide", 64), ("other", 32)))
    plain = replace(found, pooling="mean")
    with pytest.raises(EncoderError, match=r"wide: found width 64, expected 32; put the model .* or train a new version"):
        SentenceEncoder(replace(plain, model=str(wide)))
    with pytest.raises(EncoderError, match=f"other: found files of sha256 .*, expected {found.sha256}; put the model"):
        SentenceEncoder(replace(plain, model=str(other)))


def test_changed_files_are_another_model(qwen: Path, tmp_path: Path) -> None:
    """Also in a process that has loaded the folder before."""
    folder = Path(shutil.copytree(qwen, tmp_path / "copy"))
    found = encoder_of(folder).config
    (folder / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text() + "\n")
    with pytest.raises(EncoderError, match="found files of sha256"):
        SentenceEncoder(found)
    assert SentenceEncoder(replace(found, sha256="")).identity != encoder_of(qwen).identity


def test_code_of_a_model_is_not_run(tmp_path: Path, qwen: Path) -> None:
    """An architecture that only the folder's own Python knows is refused."""
    folder = Path(shutil.copytree(qwen, tmp_path / "copy"))
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}')
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(EncoderError, match=r"can't be loaded .*expected a sentence-transformers model without code of its own"):
        encoder_of(folder)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_are_refused(tmp_path: Path, qwen: Path) -> None:
    """As what they are: a file that can't be loaded."""
    folder = Path(shutil.copytree(qwen, tmp_path / "copy"))
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(EncoderError, match="can't be loaded"):
        encoder_of(folder)


def test_missing_extra_is_named(qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to install it; a copy, so that nothing loaded before is used."""
    folder = shutil.copytree(qwen, tmp_path / "copy")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EncoderError, match=r"found no sentence_transformers, expected the extra `text`; install it with pip install 'u2qt\[text\]'"):
        encoder_of(Path(folder))


def test_missing_gpu_is_named(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the configuration insists on one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EncoderError, match=r"text_model\.device: found no GPU that torch can use, expected one for cuda"):
        encoder_of(qwen, TextModelConfig(device="cuda"))
