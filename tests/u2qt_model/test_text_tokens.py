"""Token ids as the models want them: prompt, end token, padding, cut; nothing of it depends on the neighbours."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.u2qt_model.conftest import save_qwen
from u2qt_model.errors import ConfigError, EncoderError
from u2qt_model.sentence_encoder import SentenceEncoder
from u2qt_model.text_config import TextModelConfig
from u2qt_model.text_tokens import TextTokens

END = 0  # <|endoftext|>
LAST = TextModelConfig(pooling="lasttoken")


def tokens_of(folder: Path, config: TextModelConfig) -> TextTokens:
    return SentenceEncoder(replace(config, model=str(folder)))._tokens


def test_every_text_ends_with_one_end_token(qwen: Path, plain_qwen: Path) -> None:
    """By the tokenizer or from the model's configuration; cut texts and bytes that aren't UTF-8 too."""
    texts = [b"item", b"", b"item " * 99, b"\xff\xfe", "\u7ea2\U0001f600".encode()]
    for folder, config in ((qwen, TextModelConfig(max_tokens=24)), (plain_qwen, replace(LAST, max_tokens=24))):
        found = tokens_of(folder, config).of(texts)
        assert [ids.index(END) for ids in found] == [len(ids) - 1 for ids in found]
        assert len(found[2]) == 24
        assert found[1] == [END]


def test_the_prompt_comes_first_to_the_letter(qwen: Path) -> None:
    """Given, or the model's own by its name; cutting leaves it and the end token."""
    plain, prompt = tokens_of(qwen, TextModelConfig()), "Instruct: extract text features of user data\nQuery:"
    expected = plain.of([prompt.encode() + b"paid"])
    for config in (TextModelConfig(prompt=prompt), TextModelConfig(prompt_name="query")):
        assert tokens_of(qwen, config).of([b"paid"]) == expected
    assert tokens_of(qwen, TextModelConfig(prompt_name="document")).of([b"paid"]) == plain.of([b"paid"])
    short = tokens_of(qwen, TextModelConfig(prompt=prompt, max_tokens=60)).of([b"paid " * 99])[0]
    assert (len(short), short[:45], short[-1]) == (60, expected[0][:45], END)


def test_the_model_s_default_prompt_is_used(qwen: Path, tmp_path: Path) -> None:
    """Unless another is given, as the package does it."""
    folder = Path(shutil.copytree(qwen, tmp_path / "copy"))
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"default_prompt_name": "query"}))
    assert tokens_of(folder, TextModelConfig()).of([b"x"]) == tokens_of(qwen, TextModelConfig(prompt_name="query")).of([b"x"])
    assert tokens_of(folder, TextModelConfig(prompt="a")).of([b"x"]) == tokens_of(qwen, TextModelConfig(prompt="a")).of([b"x"])


def test_last_token_models_are_padded_on_the_left(qwen: Path, minilm: Path) -> None:
    """Others as their tokenizer says; rows without a text are one token long."""
    left = tokens_of(qwen, TextModelConfig()).features([[7, 8, END]], 2, 16)
    assert left["input_ids"][0].tolist() == [0] * 13 + [7, 8, END]
    assert left["attention_mask"].tolist() == [[0] * 13 + [1] * 3, [0] * 15 + [1]]
    right = tokens_of(minilm, TextModelConfig()).features([[101, 102]], 2, 16)
    assert right["attention_mask"].tolist() == [[1, 1] + [0] * 14, [1] + [0] * 15]


def test_a_prompt_that_is_not_pooled_is_counted(qwen: Path, tmp_path: Path) -> None:
    """`include_prompt` false: the pooling is told how many tokens to leave out."""
    folder = Path(shutil.copytree(qwen, tmp_path / "copy"))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "include_prompt": False}))
    assert tokens_of(folder, TextModelConfig(prompt="abc")).features([[1]], 1, 16)["prompt_length"] == 3
    assert "prompt_length" not in tokens_of(folder, TextModelConfig()).features([[1]], 1, 16)
    assert "prompt_length" not in tokens_of(qwen, TextModelConfig(prompt="abc")).features([[1]], 1, 16)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (TextModelConfig(prompt_name="passage"), "prompt_name: found 'passage', expected one of document, query"),
        (TextModelConfig(prompt="item " * 20, max_tokens=16), "prompt: found .* tokens, expected fewer than the 16"),
    ],
)
def test_impossible_prompt_is_refused(qwen: Path, config: TextModelConfig, word: str) -> None:
    """One that the model doesn't have, one that leaves no room for a text."""
    with pytest.raises(ConfigError, match=word):
        tokens_of(qwen, config)


def _without_end(folder: Path) -> None:
    for name, key in (("config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | {key: None}))


def _chats(folder: Path) -> None:
    kinds = {kind: {"method": "forward", "method_output_name": "last_hidden_state"} for kind in ("text", "message")}
    settings = {"modality_config": kinds, "module_output_name": "token_embeddings"}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    parts = [{"path": "", "type": "sentence_transformers.models.Transformer", "name": "0"}]
    (folder / "modules.json").write_text(json.dumps(parts))


@pytest.mark.parametrize(
    ("spoil", "config", "word"),
    [
        (_without_end, LAST, "found no end token in the model's folder"),
        (_chats, TextModelConfig(), "found a model that reads message, text, expected one that reads plain text"),
    ],
)
def test_models_that_would_be_read_wrongly_are_refused(tmp_path: Path, spoil: Callable[[Path], None], config: TextModelConfig, word: str) -> None:
    """A last token that is anything, a chat template."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    folder = save_qwen(tmp_path / "model", ends=False)
    spoil(folder)
    with pytest.raises(EncoderError, match=word):
        tokens_of(folder, config)
