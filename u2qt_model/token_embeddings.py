"""Rows to start a language model's embedding matrix from: the codewords of our tokens, turned into the model's space.

A fixed random orthogonal map (by `seed`) takes the codewords to the model's width, so that near codewords stay near. Each
codebook is then brought to the spread of the model's own rows, for a deep level's codewords are short but no less telling,
and set around their mean row. A token without a codeword (structural, or never given out) starts as the mean row.
V tokens, D code dimension, W width of the language model, R rows of its matrix.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from u2qt_model.errors import ExportError

Floats = NDArray[np.float32]
FRESH_SPREAD = 0.02  # standard deviation where no model is given: transformers' own start
CHUNK = 4096  # rows of the base matrix read at once
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Where the rows of an embedding matrix lie."""

    mean: NDArray[np.float64]  # (W,), the mean row
    spread: float  # standard deviation of all R x W values around it


def fresh(width: int) -> Statistics:
    """Of a model that isn't there yet."""
    return Statistics(mean=np.zeros(width), spread=FRESH_SPREAD)


def started_rows(vectors: Floats, codebooks: NDArray[np.int64], statistics: Statistics, seed: int) -> Floats:
    """float32 (V, W) rows of codewords (V, D); `codebooks` (V,) numbers the codebook of each. A zero codeword gives the mean."""
    turned = vectors.astype(np.float64) @ orthogonal(vectors.shape[1], len(statistics.mean), seed)
    for codebook in np.unique(codebooks):
        inside = (codebooks == codebook) & vectors.any(axis=1)
        size = np.sqrt(np.square(turned[inside]).mean()) if inside.any() else 0.0
        turned[inside] *= statistics.spread / size if size else 0.0
    return np.asarray(statistics.mean + turned, np.float32)


def orthogonal(rows: int, columns: int, seed: int) -> NDArray[np.float64]:
    """(rows, columns) with orthonormal rows, or columns where these are fewer; the same for the same seed."""
    drawn = np.random.default_rng(seed).normal(size=(max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(drawn)
    basis = basis * np.sign(np.diag(triangle))
    return np.asarray(basis if rows >= columns else basis.T)


def base_statistics(folder: Path) -> Statistics | None:
    """Of the input embedding matrix among the folder's safetensors, in one pass; None for a folder without safetensors.

    ExportError where they hold no matrix of a known name, or several.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    try:
        found = [(file, name) for file in files for name in _names(file) if name.endswith(EMBEDDINGS)]
        if len(found) != 1:
            names = ", ".join(name for _, name in found) or "none"
            raise ExportError(f"{folder}: found {names} among its safetensors, expected one input embedding matrix ({', '.join(EMBEDDINGS)})")
        return _statistics(*found[0])
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{folder}: found safetensors that can't be read ({error}), expected a model's weights") from error


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def _statistics(file: Path, name: str) -> Statistics:
    """Mean and spread, summed in float64."""
    with safe_open(file, framework="pt") as tensors:
        matrix = tensors.get_slice(name)
        rows, width = matrix.get_shape()
        total, squares = np.zeros(width), np.zeros(width)
        for start in range(0, rows, CHUNK):
            part = matrix[start : start + CHUNK].double().numpy()
            total += part.sum(axis=0)
            squares += np.square(part).sum(axis=0)
    mean = total / rows
    return Statistics(mean=mean, spread=float(np.sqrt((squares / rows - np.square(mean)).clip(0).mean())))
