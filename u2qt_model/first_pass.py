"""The first pass over the training stream: per source its moments, a reservoir to start from and one of held-out users.

B users, S sources, E a source's embedding width.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from u2qt_model.batch import FeatureBatch
from u2qt_model.config import TokenizerConfig
from u2qt_model.errors import TrainingError
from u2qt_model.ranks import ALONE, Ranks
from u2qt_model.samples import Moments, Reservoir, held_out_users
from u2qt_model.slice_embedder import SliceEmbedder

CHUNK_USERS = 4096  # users embedded at a time, whatever the row group's size; the most that a rank's part of a step can have


@dataclass(kw_only=True, slots=True)
class SourceSample:
    """One source's part of the pass."""

    moments: Moments  # of all training slices
    training: Reservoir
    held_out: Reservoir
    held_out_slices: int = 0


@dataclass(kw_only=True, slots=True)
class FirstPass:
    """All sources' parts, catalog order, and the number of user-days."""

    sources: list[SourceSample]
    users: int = 0


def first_pass(
    stream: Iterable[FeatureBatch],
    embedder: SliceEmbedder,
    widths: list[int],
    kinds: list[str],
    config: TokenizerConfig,
    share: float,
    report: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> FirstPass:
    """Reads the stream once; `share` of the users are held out; `report` gets the user-days so far after each batch.

    Every rank reads a stream of its own, and all get the same: as if one had read all streams.
    """
    rng = ranks.rng(config.training.seed)
    kept = [config.training.slices_per_code * config.quantizer.largest_block(kind) for kind in kinds]
    result = FirstPass(sources=[_sample(width, rows, config.training.held_out_slices, rng) for width, rows in zip(widths, kept, strict=True)])
    for batch in stream:
        held_out = held_out_rows(batch, share, config.training.seed)
        for source, sample in enumerate(result.sources):
            rows = embedder.present_rows(batch, source)
            for start in range(0, len(rows), CHUNK_USERS):
                _count(sample, embedder, batch, source, rows[start : start + CHUNK_USERS], held_out)
        result.users += batch.num_users
        report(result.users)
    _merge(result, ranks)
    return result


def _merge(found: FirstPass, ranks: Ranks) -> None:
    counts = torch.tensor([found.users, *(sample.held_out_slices for sample in found.sources)])
    ranks.add([counts])
    found.users = int(counts[0])
    for sample, held_out in zip(found.sources, counts[1:].tolist(), strict=True):
        sample.held_out_slices = held_out
        for part in (sample.moments, sample.training, sample.held_out):
            part.merge(ranks)


def held_out_rows(batch: FeatureBatch, share: float, seed: int) -> NDArray[np.bool_]:
    """(B,) which rows belong to held-out users; TrainingError where the batch has no user ids to decide by."""
    if share == 0:
        return np.zeros(batch.num_users, bool)
    if batch.user_id is None:
        raise TrainingError("user_id: column missing, expected it in every batch; or set training.held_out_share to 0")
    return held_out_users(batch.user_id, share, seed)


def _sample(width: int, kept: int, held_out: int, rng: np.random.Generator) -> SourceSample:
    training, validation = Reservoir(kept, width, rng), Reservoir(held_out, width, rng)
    return SourceSample(moments=Moments(width), training=training, held_out=validation)


def _count(
    sample: SourceSample,
    embedder: SliceEmbedder,
    batch: FeatureBatch,
    source: int,
    rows: NDArray[np.int64],
    held_out: NDArray[np.bool_],
) -> None:
    vectors = embedder.embed(batch, source, rows)
    validation = held_out[rows]
    sample.moments.add(vectors[~validation])
    sample.training.offer(vectors[~validation])
    sample.held_out.offer(vectors[validation])
    sample.held_out_slices += int(validation.sum())
