"""The choice of stage 1, and what of it is found out at training."""

from dataclasses import replace

from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.qformer_embedder import QFormerEmbedder
from u2qt_model.sentence_encoder import SentenceEncoder
from u2qt_model.slice_embedder import SliceEmbedder
from u2qt_model.text_embedder import TextEmbedder


def slice_embedder(layout: FeatureLayout, config: TokenizerConfig) -> SliceEmbedder:
    """The embedder that a configuration names; a Q-Former's weights are those of its seed until they are trained or loaded."""
    return QFormerEmbedder(layout, config) if config.stage1 == "qformer" else TextEmbedder(layout, config)


def resolved(config: TokenizerConfig) -> TokenizerConfig:
    """`config` with its text model's content, width, precision and block size filled in, as a checkpoint keeps them.

    A configuration that reads no model, or that was resolved before, comes back as it is.
    """
    if not config.reads_text_model:
        return config
    return replace(config, text_model=SentenceEncoder(config.text_model).config)
