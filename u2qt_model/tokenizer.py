"""The frozen tokenizer: feature rows to codes and back to vectors. Knows nothing of training, files or Spark.

Codes don't depend on batch size, row order or padding: every matrix product has the shape of one block of
`block_rows` slices (the last one padded with zeros) and runs on a fixed number of threads. B users, S sources, L
levels, R rows of a block, U distinct slices of a block, D code dimension.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from u2qt_model.batch import FeatureBatch
from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.json_form import canonical_json, to_plain
from u2qt_model.model import TokenizerModel
from u2qt_model.slice_embedder import SliceEmbedder
from u2qt_model.threads import fixed_threads
from u2qt_model.vocabulary import Vocabulary

Codes = NDArray[np.int16]
Floats = NDArray[np.float32]


class Tokenizer:
    """A trained tokenizer. Never changes; load it once per process and share it between threads of one task only."""

    def __init__(
        self,
        layout: FeatureLayout,
        config: TokenizerConfig,
        model: TokenizerModel,
        embedder: SliceEmbedder,
        metrics: Mapping[str, Any],
    ) -> None:
        """`metrics` are those of metrics.json; they take no part in the fingerprint."""
        self.layout, self.config, self.metrics = layout, config, metrics
        self.vocabulary = Vocabulary.of(layout, config.quantizer)
        self._model = model.eval().requires_grad_(False)
        for part in self._model.quantizers:
            part.quantizer.codebooks.freeze()
        self._embedder = embedder

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (64 hex digits) over weights, config, feature layout and text encoder identity; not over metrics."""
        described = [self.config.to_json(), self.layout.to_json(), canonical_json(self.text_encoder_identity)]
        digest = hashlib.sha256("\n".join(described).encode())
        for name, tensor in sorted(self.weights.items()):
            digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Every tensor of a checkpoint, by name."""
        return {name: tensor.detach() for name, tensor in self._model.state_dict().items()}

    @property
    def text_encoder_identity(self) -> dict[str, str | int]:
        """What decides the text encoder's vectors; {"kind": "none"} where stage 1 is a Q-Former."""
        return self._embedder.text_encoder_identity

    @property
    def untrained_sources(self) -> tuple[str, ...]:
        """Sources without a slice in training. They have no codes: `encode` gives -1 even where they are present."""
        return tuple(name for name, seen in zip(self.layout.source_names, self._model.seen.tolist(), strict=True) if not seen)

    def columns(self) -> tuple[str, ...]:
        """The `user_features` columns that `encode` reads."""
        return self.layout.columns(events=self.config.reads_events)

    def describe(self) -> dict[str, Any]:
        """What layout.json says: fingerprint, catalog, sources, and the numbering of tokens."""
        sources = [{**source, "levels": self.vocabulary.describe_levels(source["name"])} for source in to_plain(self.layout)["sources"]]
        about = {
            "fingerprint": self.fingerprint,
            "catalog": self.layout.catalog,
            "hash_buckets": self.layout.hash_buckets,
        }
        numbering = {"num_levels": self.vocabulary.num_levels, "vocabulary_size": self.vocabulary.size}
        return {**about, "sources": sources, "stage1": self.config.stage1, "quantizer": self.config.quantizer.kind, **numbering}

    def encode(self, batch: FeatureBatch) -> Codes:
        """int16 (B, S, L), -1 in every level of a source that is absent or was never trained, and below a source's last level."""
        return self._encode(batch, margins=False)[0]

    def encode_with_margins(self, batch: FeatureBatch) -> tuple[Codes, Floats]:
        """Codes as of `encode`, float32 (B, S, L) margins: squared distance of the best other code less the given one's.

        0 is a tie or an absent source, negative a nearer code that the beam passed over; the largest float32 means that no
        other code is open. Never NaN.
        """
        return self._encode(batch, margins=True)

    def decode(self, codes: NDArray[Any]) -> Floats:
        """float32 (B, S, D), the projected slices that integer codes (B, S, L) stand for; zeros for -1.

        CodesError for a code outside [0, K), or -1 in some levels of a slice only.
        """
        self.vocabulary.check_codes(codes)
        vectors = np.zeros((*codes.shape[:2], self.config.encoder.code_dim), np.float32)
        quantizers = self._model.quantizers
        with torch.inference_mode(), fixed_threads(self.config.encoding.threads):
            for source in range(codes.shape[1]):
                rows = np.flatnonzero(codes[:, source, 0] >= 0)
                for block in self._blocks(rows):
                    padded = self._padded(codes[block, source, : quantizers.num_levels(source)].astype(np.int64))
                    vectors[block, source] = quantizers.reconstruct(padded, source)[: len(block)].numpy()
        return vectors

    def token_vectors(self) -> Floats:
        """float32 (vocabulary size, D), the codeword of each token id; zeros for a code that is never given out.

        In the space in which codewords are summed, which the decoder turns into that of `decode`.
        """
        vectors = np.zeros((self.vocabulary.size, self.config.encoder.code_dim), np.float32)
        for part in self._model.quantizers:
            names = part.of(self.layout.source_names)
            for block in part.quantizer.codebooks.blocks():
                codewords, is_open = part.quantizer.codebooks.block(block)
                first = self.vocabulary.token_id(None if block.source is None else names[block.source], block.level + 1, block.first)
                vectors[first : first + block.size] = torch.where(is_open[:, None], codewords, 0.0).numpy()
        return vectors

    def project(self, batch: FeatureBatch) -> Floats:
        """float32 (B, S, D), the slices before quantization, which `decode` approximates; zeros where absent."""
        vectors = np.zeros((batch.num_users, len(self.layout.sources), self.config.encoder.code_dim), np.float32)
        with torch.inference_mode(), fixed_threads(self.config.encoding.threads):
            for source, block in self._work(batch):
                distinct, inverse = self._embedder.distinct(batch, source, block)
                projected = self._model.project(self._padded(distinct), source)
                vectors[block, source] = projected.numpy()[inverse]
        return vectors

    def _encode(self, batch: FeatureBatch, *, margins: bool) -> tuple[Codes, Floats]:
        shape = (batch.num_users, len(self.layout.sources), self.vocabulary.num_levels)
        codes = np.full(shape, -1, np.int16)
        gaps = np.zeros(shape if margins else (0, 0, 0), np.float32)
        quantizers = self._model.quantizers
        with torch.inference_mode(), fixed_threads(self.config.encoding.threads):
            for source, block in self._work(batch):
                distinct, inverse = self._embedder.distinct(batch, source, block)
                projected = self._model.project(self._padded(distinct), source)
                found = quantizers.encode(projected, source)
                codes[block, source, : found.shape[1]] = found.numpy()[inverse]
                if margins:
                    gaps[block, source, : found.shape[1]] = quantizers.margins(projected, found, source).numpy()[inverse]
        return codes, gaps

    def _work(self, batch: FeatureBatch) -> list[tuple[int, NDArray[np.int64]]]:
        """(source, rows) of every block of present slices of trained sources."""
        trained = [source for source, seen in enumerate(self._model.seen.tolist()) if seen]
        return [(source, block) for source in trained for block in self._blocks(self._embedder.present_rows(batch, source))]

    def _blocks(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        size = self.config.encoding.block_rows
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _padded(self, rows: NDArray[Any]) -> torch.Tensor:
        """`rows` as a tensor with zeros below, always R rows."""
        padded = np.zeros((self.config.encoding.block_rows, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        return torch.from_numpy(padded)
