"""The exported vocabulary, loaded by the libraries that will use it: alone, and added to tiny language models."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file, save_file

from u2qt_model import FeatureBatch, FeatureLayout, Tokenizer, Vocabulary
from u2qt_model.errors import ExportError
from u2qt_model.export_vocabulary import SPECIALS, Exported, all_names, export_vocabulary
from u2qt_model.presets import tiny
from u2qt_model.sequence_text import Slice, parse_sequence, sequence_text
from u2qt_model.train import train

WIDTH = 48
MODELS = ("llama", "qwen2")


def models_of(kind: str, vocabulary: int) -> Any:
    """A randomly initialised language model, tiny."""
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


def byte_level(folder: Path) -> Any:
    """A small byte-level BPE, saved as transformers does."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(["the bill was paid <bill>", "a search, a visit; 0001 0002 <a> </b>"] * 9, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")
    fast.save_pretrained(folder)
    return fast


@pytest.fixture(scope="module", params=MODELS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model's folder whose matrix has more rows than its tokenizer has tokens, as is common."""
    folder = tmp_path_factory.mktemp(request.param)
    fast = byte_level(folder)
    models_of(request.param, len(fast) + 10).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def extended(tokenizer: Tokenizer, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_vocabulary(tokenizer, tmp_path_factory.mktemp("extended") / "out", base=base)


@pytest.fixture(scope="module")
def alone(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_vocabulary(tokenizer, tmp_path_factory.mktemp("alone") / "out")


@pytest.fixture(scope="module")
def text(tokenizer: Tokenizer, make_batch: Callable[..., FeatureBatch]) -> str:
    """Two days of one user, with a day between."""
    codes = tokenizer.encode(make_batch(2, 7))
    slices = [
        Slice(ds=date(2026, 1, 1 + 2 * day), source=name, codes=tuple(codes[day, source].tolist()))
        for day in range(2)
        for source, name in enumerate(tokenizer.layout.source_names)
        if codes[day, source, 0] >= 0
    ]
    made = sequence_text(slices, date(2026, 1, 4), tokenizer.vocabulary)
    assert list(parse_sequence(made, date(2026, 1, 4), tokenizer.vocabulary)) == slices
    return made


def load(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def pieces(text: str) -> list[str]:
    return [f"<{piece}" for piece in text.split("<")[1:]]


def test_alone_ids_are_those_of_the_vocabulary(tokenizer: Tokenizer, alone: Exported) -> None:
    """By every loader; structural and special tokens follow."""
    names = all_names(tokenizer.vocabulary)
    assert (alone.tokens, alone.first_id, alone.width) == (len(names), 0, None)
    raw = tokenizers.Tokenizer.from_file(str(alone.folder / "tokenizer.json"))
    for ids in (
        raw.encode("".join(names)).ids,
        load(alone.folder)("".join(names))["input_ids"],
        transformers.PreTrainedTokenizerFast.from_pretrained(alone.folder)("".join(names))["input_ids"],
    ):
        assert ids == list(range(len(names)))
    assert len(load(alone.folder)) == len(names) + len(SPECIALS)
    assert load(alone.folder).pad_token == "<pad>"
    assert load(alone.folder).eos_token_id == len(names) + 3


def test_alone_a_text_comes_back_and_a_foreign_word_is_unknown(alone: Exported, text: str) -> None:
    """No spaces come in between; what is no token doesn't vanish."""
    loaded = load(alone.folder)
    ids = loaded(text)["input_ids"]
    assert loaded.convert_ids_to_tokens(ids) == pieces(text)
    assert loaded.decode(ids) == text
    assert loaded.unk_token_id in loaded(f"{text}paid")["input_ids"]
    assert loaded("<bill_9_0001>")["input_ids"] == [loaded.unk_token_id]


def test_added_names_are_one_id_each_at_the_end(tokenizer: Tokenizer, base: Path, extended: Exported) -> None:
    """The base's own ids stay."""
    names, before, after = all_names(tokenizer.vocabulary), load(base), load(extended.folder)
    assert extended.first_id == len(before)
    assert after.convert_tokens_to_ids(list(names)) == list(range(len(before), len(before) + len(names)))
    assert after("the bill was paid")["input_ids"] == before("the bill was paid")["input_ids"]
    raw = tokenizers.Tokenizer.from_file(str(extended.folder / "tokenizer.json"))
    assert [raw.encode(name).ids for name in names] == [[len(before) + index] for index in range(len(names))]


def test_added_names_never_merge_with_neighbours(base: Path, extended: Exported, text: str) -> None:
    """Without spaces, between words, beside a bracket of the base's own; the text comes back."""
    before, after = load(base), load(extended.folder)
    assert after.convert_ids_to_tokens(after(text, add_special_tokens=False)["input_ids"]) == pieces(text)
    for left, right in (("the bill", "was paid"), ("<", ">"), ("a ", " b"), ("<a>", "</b>")):
        ids = after(left + text + right, add_special_tokens=False)["input_ids"]
        assert ids == [*before(left)["input_ids"], *after(text)["input_ids"], *before(right)["input_ids"]]
        assert after.decode(ids, clean_up_tokenization_spaces=False) == left + text + right


def test_names_json_says_what_each_id_is(tokenizer: Tokenizer, extended: Exported) -> None:
    """Codes with source, level and code; a shared one without source; tags with their source."""
    described = json.loads((extended.folder / "vocabulary.json").read_text())
    assert tuple(described) == all_names(tokenizer.vocabulary)
    first = extended.first_id
    assert described["<shared_1_0003>"] == {"id": first + 3, "source": None, "level": 1, "code": 3}
    token = tokenizer.vocabulary.token(tokenizer.vocabulary.size - 1)
    assert described[tokenizer.vocabulary.names()[-1]] == {
        "id": first + tokenizer.vocabulary.size - 1,
        "source": "profile",
        "level": token.level,
        "code": token.code,
    }
    assert described["<day/>"] == {"id": first + tokenizer.vocabulary.size, "source": None, "level": None, "code": None}
    assert described["</search_2>"]["source"] == "search_2"
    assert load(extended.folder).convert_tokens_to_ids("</search_2>") == described["</search_2>"]["id"]


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_starts_from_the_rows(tokenizer: Tokenizer, kind: str, tmp_path: Path) -> None:
    """As docs/language-models.md says; the new rows lie where the model's own do, and a step of training moves them."""
    fast = byte_level(tmp_path / "base")
    models_of(kind, len(fast) + 10).save_pretrained(tmp_path / "base")
    made = export_vocabulary(tokenizer, tmp_path / "out", base=tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    old = model.get_input_embeddings().weight.detach().clone()
    started = load_file(tmp_path / "out" / "new_embeddings.safetensors")
    rows, ids = torch.from_numpy(started["embeddings"]), torch.from_numpy(started["ids"])
    assert rows.shape == (made.tokens, WIDTH)
    assert rows.dtype == torch.float32
    model.resize_token_embeddings(max(len(old), int(ids[-1]) + 1), mean_resizing=False)
    model.get_input_embeddings().weight.data[ids] = rows
    loaded = load(tmp_path / "out")
    batch = loaded("paid <bill><shared_1_0001></bill>", return_tensors="pt")
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert batch["input_ids"][0, -2] == made.first_id + 1
    assert model.get_input_embeddings().weight.grad[made.first_id + 1].abs().sum() > 0
    own = rows[(rows - old.mean(dim=0)).abs().amax(dim=1) > 1e-6]
    assert len(own) >= tokenizer.vocabulary.size // 2
    assert float((own - old.mean(dim=0)).square().mean().sqrt()) == pytest.approx(float((old - old.mean(dim=0)).square().mean().sqrt()), rel=1e-4)


def test_structural_tokens_start_as_the_mean_row(tokenizer: Tokenizer, extended: Exported, base: Path) -> None:
    """They have no codeword."""
    rows = load_file(extended.folder / "new_embeddings.safetensors")["embeddings"]
    mean = load_file(base / "model.safetensors")["model.embed_tokens.weight"].mean(axis=0)
    np.testing.assert_allclose(rows[tokenizer.vocabulary.size :], np.tile(mean, (7, 1)), atol=1e-6)


def test_a_width_stands_in_for_a_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The same seed gives the same bytes; another seed another map."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert export_vocabulary(tokenizer, tmp_path / name, width=16, seed=seed).width == 16
    a, b, c = ((tmp_path / name / "new_embeddings.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert load_file(tmp_path / "a" / "new_embeddings.safetensors")["embeddings"].shape == (len(all_names(tokenizer.vocabulary)), 16)


def test_a_base_that_holds_one_of_our_names_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The message names the token and the way out, and nothing is left behind."""
    fast = byte_level(tmp_path / "base")
    fast.add_tokens(["<profile_4_0031>"])
    fast.save_pretrained(tmp_path / "base")
    with pytest.raises(ExportError, match=r"found <profile_4_0031> in its vocabulary already .*give the folder of the language model as it was"):
        export_vocabulary(tokenizer, tmp_path / "out", base=tmp_path / "base", width=8)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_base_that_would_split_our_names_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A token of the base's own that reaches over two of ours: found by encoding, not by guessing."""
    fast = byte_level(tmp_path / "base")
    fast.add_tokens([tokenizers.AddedToken("<shared_1_0000><shared", normalized=False)])
    fast.save_pretrained(tmp_path / "base")
    with pytest.raises(ExportError, match="splits or merges our tokens"):
        export_vocabulary(tokenizer, tmp_path / "out", base=tmp_path / "base", width=8)


@pytest.mark.parametrize(
    ("contents", "width", "word"),
    [
        (None, 8, "found no tokenizer that can be loaded"),
        ({}, None, "found no safetensors, expected the language model's weights"),
        ({"a.embed_tokens.weight": 4, "b.wte.weight": 4}, None, "found a.embed_tokens.weight, b.wte.weight among"),
        ({"lm_head.weight": 4}, None, "found none among"),
        ({"model.embed_tokens.weight": 4}, 8, "width: found 8, expected 4"),
        (b"no safetensors", None, "can't be read"),
    ],
)
def test_an_unusable_base_is_refused(tokenizer: Tokenizer, tmp_path: Path, contents: Any, width: int | None, word: str) -> None:
    """No tokenizer; no matrix, several, a broken file, or one of another width."""
    base = tmp_path / "base"
    base.mkdir()
    if contents is not None:
        byte_level(base)
    if isinstance(contents, bytes):
        (base / "model.safetensors").write_bytes(contents)
    elif contents:
        save_file({name: np.ones((3, size), np.float32) for name, size in contents.items()}, base / "model.safetensors")
    with pytest.raises(ExportError, match=word):
        export_vocabulary(tokenizer, tmp_path / "out", base=base, width=width)
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder_is_left_alone(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """An empty one is taken."""
    out = tmp_path / "out"
    out.mkdir()
    export_vocabulary(tokenizer, out)
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(ExportError, match="expected a new or empty folder"):
        export_vocabulary(tokenizer, out)
    assert sorted(path.name for path in out.iterdir()) == before
    assert not [name for name in before if name.endswith((".py", ".bin", ".pkl"))]


@pytest.mark.parametrize(("sources", "word"), [(("a", "a_1_0001"), "found <a_1_0001> as a code"), (("pad",), "found <pad> as a source's tag")])
def test_names_that_would_be_two_tokens_are_refused(tokenizer: Tokenizer, tmp_path: Path, sources: tuple[str, ...], word: str) -> None:
    """A source whose tag is a token's name, or a special token's."""
    words = Vocabulary(sources=sources, shared_sizes=(0,), own_sizes=(4,))
    renamed = Tokenizer.__new__(Tokenizer)
    renamed.vocabulary = words
    with pytest.raises(ExportError, match=word):
        export_vocabulary(renamed, tmp_path / "out")


def test_token_vectors_add_up_to_the_quantized_slice(baseline: Tokenizer, make_batch: Callable[..., FeatureBatch]) -> None:
    """Without networks, decoding is the sum of a slice's token vectors."""
    codes = baseline.encode(make_batch(50, 3))
    vectors, ids = baseline.token_vectors(), baseline.vocabulary.token_ids(codes)
    assert vectors.shape == (baseline.vocabulary.size, baseline.config.encoder.code_dim)
    summed = np.where(codes[..., :1] >= 0, vectors[ids].sum(axis=2), 0.0)
    np.testing.assert_allclose(summed, baseline.decode(codes), atol=1e-5)


def test_token_vectors_add_up_in_layout_width(
    layout: FeatureLayout, open_stream: Callable[[], Iterator[FeatureBatch]], make_batch: Callable[..., FeatureBatch]
) -> None:
    """Own codes follow the shared ones of a level; each is found under its own id."""
    config = tiny(layout="width")
    wide = train(layout, replace(config, encoder=replace(config.encoder, hidden=0)), open_stream)
    codes = wide.encode(make_batch(50, 3))
    summed = np.where(codes[..., :1] >= 0, wide.token_vectors()[wide.vocabulary.token_ids(codes)].sum(axis=2), 0.0)
    assert (codes >= np.array(wide.vocabulary.shared_sizes)).any()
    np.testing.assert_allclose(summed, wide.decode(codes), atol=1e-5)
