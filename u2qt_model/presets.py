"""Named runs: each function returns a full configuration. The command line changes single settings of it."""

from u2qt_model.config import (
    QFormerConfig,
    QuantizerConfig,
    SliceEncoderConfig,
    TokenizerConfig,
    TrainingConfig,
)
from u2qt_model.require import require
from u2qt_model.text_config import TextEncoderConfig


def tiny(*, seed: int = 0, quantizer: str = "residual", layout: str = "depth", stage1: str = "text") -> TokenizerConfig:
    """Tests: 256 hash buckets -> 32 dimensions, 4 levels of 32 codes, 2 epochs."""
    return TokenizerConfig(
        stage1=stage1,
        text=TextEncoderConfig(width=256),
        qformer=QFormerConfig(queries=2, width=32, heads=2, blocks=2, bag_buckets=256, epochs=4),
        encoder=SliceEncoderConfig(code_dim=32, hidden=64, id_buckets=64),
        quantizer=_levels(quantizer, layout, codebook_size=32),
        training=TrainingConfig(seed=seed, epochs=2, held_out_slices=1024),
    )


def demo(*, seed: int = 0, quantizer: str = "residual", layout: str = "depth", stage1: str = "text") -> TokenizerConfig:
    """Seconds on 2 cores for 15,000 user-days: 1,024 hash buckets -> 64 dimensions, 4 levels of 64 codes, 3 epochs."""
    return TokenizerConfig(stage1=stage1, quantizer=_levels(quantizer, layout, codebook_size=64), training=TrainingConfig(seed=seed, threads=1))


def base(*, seed: int = 0, quantizer: str = "residual", layout: str = "depth", stage1: str = "text") -> TokenizerConfig:
    """The default: 1,024 hash buckets -> 128 dimensions, 4 levels of 256 codes, 5 epochs."""
    return TokenizerConfig(
        stage1=stage1,
        encoder=SliceEncoderConfig(code_dim=128, hidden=256),
        quantizer=_levels(quantizer, layout, codebook_size=256),
        training=TrainingConfig(seed=seed, epochs=5, batch_users=1024),
    )


def _levels(quantizer: str, layout: str, *, codebook_size: int) -> QuantizerConfig:
    """Four levels of as many codes, shared or own; in width three quarters as many for a slice, which cost fewer bits."""
    require(quantizer in ("residual", "rq_kmeans"), "quantizer", quantizer, "residual or rq_kmeans")
    require(layout in ("depth", "width"), "layout", layout, "depth or width")
    require(quantizer == "residual" or layout == "depth", "layout", layout, "depth for rq_kmeans")
    if layout == "width":
        return QuantizerConfig(layout=layout, shared_levels=4, own_levels=4, codebook_size=codebook_size // 2, own_size=codebook_size // 4)
    shared = 2 if quantizer == "residual" else 4  # rq_kmeans: one pooled table per level
    return QuantizerConfig(kind=quantizer, shared_levels=shared, own_levels=4 - shared, codebook_size=codebook_size)
