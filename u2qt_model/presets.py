"""Named runs: each function returns a full configuration. The command line changes seed, quantizer and stage 1 only."""

from u2qt_model.config import (
    QFormerConfig,
    QuantizerConfig,
    SliceEncoderConfig,
    TextEncoderConfig,
    TokenizerConfig,
    TrainingConfig,
    require,
)


def tiny(*, seed: int = 0, quantizer: str = "residual", stage1: str = "text") -> TokenizerConfig:
    """Tests: 256 hash buckets -> 32 dimensions, 4 levels of 32 codes, 2 epochs."""
    return TokenizerConfig(
        stage1=stage1,
        text=TextEncoderConfig(width=256),
        qformer=QFormerConfig(queries=2, width=32, heads=2, blocks=2, bag_buckets=256, epochs=4),
        encoder=SliceEncoderConfig(code_dim=32, hidden=64, id_buckets=64),
        quantizer=_levels(quantizer, codebook_size=32),
        training=TrainingConfig(seed=seed, epochs=2, held_out_slices=1024),
    )


def demo(*, seed: int = 0, quantizer: str = "residual", stage1: str = "text") -> TokenizerConfig:
    """Seconds on 2 cores for 15,000 user-days: 1,024 hash buckets -> 64 dimensions, 4 levels of 64 codes, 3 epochs."""
    return TokenizerConfig(stage1=stage1, quantizer=_levels(quantizer, codebook_size=64), training=TrainingConfig(seed=seed, threads=1))


def base(*, seed: int = 0, quantizer: str = "residual", stage1: str = "text") -> TokenizerConfig:
    """The default: 1,024 hash buckets -> 128 dimensions, 4 levels of 256 codes, 5 epochs."""
    return TokenizerConfig(
        stage1=stage1,
        encoder=SliceEncoderConfig(code_dim=128, hidden=256),
        quantizer=_levels(quantizer, codebook_size=256),
        training=TrainingConfig(seed=seed, epochs=5, batch_users=1024),
    )


def _levels(quantizer: str, *, codebook_size: int) -> QuantizerConfig:
    require(quantizer in ("residual", "rq_kmeans"), "quantizer", quantizer, "residual or rq_kmeans")
    shared = 2 if quantizer == "residual" else 4  # rq_kmeans: one pooled table per level
    return QuantizerConfig(kind=quantizer, shared_levels=shared, own_levels=4 - shared, codebook_size=codebook_size)
