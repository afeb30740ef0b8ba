"""The choice of stage 1: which embedder a configuration names, and what of it is found out before training."""

from dataclasses import replace
from pathlib import Path

import pytest

from u2qt_model import FeatureLayout
from u2qt_model.errors import EncoderError
from u2qt_model.presets import tiny
from u2qt_model.qformer_embedder import QFormerEmbedder
from u2qt_model.settings import with_settings
from u2qt_model.stage_one import resolved, slice_embedder
from u2qt_model.text_embedder import TextEmbedder


def test_embedders_are_named_by_stage1(layout: FeatureLayout, qwen: Path) -> None:
    """A text model's width is that of every event source; the profile keeps its own."""
    assert isinstance(slice_embedder(layout, tiny(stage1="qformer")), QFormerEmbedder)
    embedder = slice_embedder(layout, with_settings(tiny(), ["text.kind=sentence-transformers", f"text_model.model={qwen}"]))
    assert isinstance(embedder, TextEmbedder)
    assert [embedder.width(source) for source in range(3)] == [32, 32, 3 + 64]


def test_only_what_reads_a_model_is_resolved(qwen: Path) -> None:
    """Twice is once; without a model's name it is refused."""
    assert resolved(tiny()) == tiny()
    config = with_settings(tiny(), ["text.kind=sentence-transformers", f"text_model.model={qwen}"])
    found = resolved(config)
    assert (found.text_model.width, len(found.text_model.sha256)) == (32, 64)
    assert resolved(found) == found
    assert resolved(replace(config, stage1="qformer")) == replace(config, stage1="qformer")
    with pytest.raises(EncoderError, match=r"text_model\.model: found none, expected a folder or a name; give one with --text-model"):
        resolved(with_settings(tiny(), ["text.kind=sentence-transformers"]))
