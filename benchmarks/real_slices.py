"""Projected slices of a lakehouse's feature rows, as a tokenizer's training sees them before its quantizer starts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.six_sources import Slices
from jobs.delta_tables import Lakehouse, Where
from jobs.registered_tokenizers import feature_layout
from jobs.session import build_session
from schemas.catalog_files import load_catalog
from schemas.keys import Days
from u2qt_model import FeatureBatch, FeatureLayout, TokenizerConfig
from u2qt_model.first_pass import held_out_rows
from u2qt_model.presets import demo
from u2qt_model.slice_encoder import Projection
from u2qt_model.stage_one import slice_embedder
from u2qt_model.stream import read_files
from u2qt_model.threads import fixed_threads

SHARE = 0.1  # of the users, twice: to choose rounds and epochs by, and to judge by


def config(seed: int) -> TokenizerConfig:
    """The demo's: hashed words, 64 dimensions, 4 levels of 64 codes."""
    return demo(seed=seed)


def batches(root: Path, catalog: Path | None, days: Days) -> tuple[FeatureLayout, list[FeatureBatch]]:
    """All feature rows of the days, and their layout."""
    layout, spark = feature_layout(load_catalog(catalog)), build_session()
    try:
        lake = Lakehouse(spark, str(root))
        files = lake.active_files("user_features", lake.version("user_features"), Where(days=days))
    finally:
        spark.stop()
    return layout, list(read_files([file.url for file in files], layout))


def real_slices(layout: FeatureLayout, rows: list[FeatureBatch], seed: int) -> Slices:
    """Standardised and rotated by the fitting users alone; the seed draws who is held out."""
    settings = config(seed)
    sources = range(len(layout.sources))
    with fixed_threads(1):
        parts = [_source(layout, settings, rows, source, seed) for source in sources]
    fitting, users, validation, held_out = map(list, zip(*parts, strict=True))
    return Slices(fitting=fitting, users=users, validation=validation, held_out=held_out)


def _source(layout: FeatureLayout, settings: TokenizerConfig, rows: list[FeatureBatch], source: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    embedder = slice_embedder(layout, settings)
    found = [(embedder.embed(batch, source, present), present + before) for batch, before, present in _present(layout, rows, source)]
    vectors, users = torch.from_numpy(np.concatenate([v for v, _ in found])), torch.from_numpy(np.concatenate([u for _, u in found]))
    judged, deciding = (torch.from_numpy(np.concatenate([held_out_rows(b, SHARE, s) for b in rows]))[users] for s in (seed, seed + 1000))
    fit = ~judged & ~deciding
    projection = Projection(embedder.width(source), settings.encoder.code_dim, settings.encoder.clip)
    wide = vectors[fit].double()
    projection.fit(wide.mean(dim=0), wide.var(dim=0, correction=0), vectors[fit])
    with torch.no_grad():
        x = projection(vectors)
    return x[fit], users[fit], x[deciding & ~judged], x[judged]


def _present(layout: FeatureLayout, rows: list[FeatureBatch], source: int) -> Iterator[tuple[FeatureBatch, int, np.ndarray]]:  # type: ignore[type-arg]
    before = 0
    for batch in rows:
        yield batch, before, np.flatnonzero(batch.slices[layout.source_names[source]].present)
        before += batch.num_users
