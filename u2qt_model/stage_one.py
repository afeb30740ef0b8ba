"""The choice of stage 1."""

from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.qformer_embedder import QFormerEmbedder
from u2qt_model.slice_embedder import SliceEmbedder
from u2qt_model.text_embedder import TextEmbedder


def slice_embedder(layout: FeatureLayout, config: TokenizerConfig) -> SliceEmbedder:
    """The embedder that a configuration names; a Q-Former's weights are those of its seed until they are trained or loaded."""
    return QFormerEmbedder(layout, config) if config.stage1 == "qformer" else TextEmbedder(layout, config)
