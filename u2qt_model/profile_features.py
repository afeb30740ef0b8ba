"""A profile row as one vector: compressed values beside its ids hashed by field. Pure NumPy; knows nothing of training.

N rows, V values, F fields, H id buckets.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def profile_vectors(values: Floats, ids: NDArray[np.int32], id_buckets: int) -> Floats:
    """float32 (N, V + H): sign(x) log(1 + |x|) of `values` (N, V), then the signed counts of `hashed_ids` (N, F)."""
    compressed = np.sign(values) * np.log1p(np.abs(values))
    return np.concatenate([compressed, hashed_ids(ids, id_buckets)], axis=1, dtype=np.float32)


def hashed_ids(ids: NDArray[np.int32], id_buckets: int) -> Floats:
    """float32 (N, H): +1 or -1 for each (field, id) in its bucket; id 0 is padding and adds nothing."""
    rows, fields = ids.shape
    keys = (np.arange(fields, dtype=np.uint64)[None, :] << np.uint64(32)) | ids.astype(np.uint64)
    mixed = splitmix64(keys)
    signs = np.where(mixed >> np.uint64(63), 1.0, -1.0) * (ids != 0)
    buckets = (mixed % np.uint64(id_buckets)).astype(np.int64) + np.arange(rows)[:, None] * id_buckets
    counts = np.bincount(buckets.reshape(-1), weights=signs.reshape(-1), minlength=rows * id_buckets)
    return counts.astype(np.float32).reshape(rows, id_buckets)


def splitmix64(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A fixed bijection of 64-bit integers whose bits look random (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)
