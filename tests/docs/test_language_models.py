"""The Python of docs/language-models.md runs as it is printed, one block after the other."""

import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers

from jobs import create_views
from jobs.context import Context
from jobs.registered_tokenizers import find_registered
from u2qt_model import load
from u2qt_model.export_vocabulary import export_vocabulary

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (Path(__file__).resolve().parents[2] / "docs" / "language-models.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny Qwen2 with a byte-level BPE."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer, bpe.decoder = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(["Will this user buy?"], tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    transformers.PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(tmp_path / "base")
    config = transformers.Qwen2Config(
        vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_the_printed_python_runs(published: Context, base: Path, tmp_path: Path) -> None:
    """On a published sequence: every token of it is one id, and the loss is finite."""
    checkpoint = find_registered(published, "v1").checkpoint
    create_views.run(published)
    row = published.spark.table("user_token_sequences").select("as_of", "text").head()
    assert row is not None
    export_vocabulary(load(checkpoint), tmp_path / "out", base=base)
    names: dict[str, Any] = {"CHECKPOINT": checkpoint, "TEXT": row.text, "AS_OF": row.as_of, "BASE": str(base), "EXPORTED": str(tmp_path / "out")}
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        exec(block, names)
    assert torch.isfinite(names["loss"])
    assert (names["batch"]["input_ids"] >= names["new"]["ids"][0]).sum() == row.text.count("<")
    assert torch.equal(names["model"].get_output_embeddings().weight[names["new"]["ids"]], names["new"]["embeddings"])
