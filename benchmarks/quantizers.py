"""Our quantizers beside the plain ones on the six-source vectors, four levels, three seeds: held-out error, usage, seconds."""

import argparse
import statistics
import time

import faiss
import numpy as np
import torch

from benchmarks.six_sources import Fit, bench, measured, of_six_sources, vectors
from u2qt_model.config import QuantizerConfig

WIDTH = {"layout": "width", "shared_levels": 4, "own_levels": 4, "codebook_size": 128, "own_size": 64}
POOLED = {"shared_levels": 4, "own_levels": 0, "codebook_size": 512}
OURS = {
    "width 128 + 64, beam 1": (192, 512, WIDTH),
    "width 128 + 64, beam 8": (192, 512, {**WIDTH, "beam": 8}),
    "depth 4 shared, beam 1": (512, 512, POOLED),
    "depth 4 shared, beam 8": (512, 512, {**POOLED, "beam": 8}),
    "depth 2 + 2 own, beam 1": (256, 256, {"shared_levels": 2, "own_levels": 2}),
    "depth 2 + 2 own, beam 8": (256, 256, {"shared_levels": 2, "own_levels": 2, "beam": 8}),
}


def plain(train: np.ndarray, held_out: np.ndarray) -> dict[str, tuple[int, int, Fit]]:  # type: ignore[type-arg]
    """The rows of the shared baseline, by its own functions."""
    base, dim, found = bench("residual_kmeans"), train.shape[-1], {}
    for codes in (192, 256, 512):
        clock = time.perf_counter()
        decoded = base.residual_kmeans(train.reshape(-1, dim), held_out.reshape(-1, dim), codes).reshape(held_out.shape)
        found[f"pooled residual k-means {codes}"] = codes, codes, _fit(base, held_out, decoded, clock)
    for codes in (85, 192, 256):
        clock = time.perf_counter()
        parts = [base.residual_kmeans(np.ascontiguousarray(train[:, s]), np.ascontiguousarray(held_out[:, s]), codes) for s in range(train.shape[1])]
        found[f"separate residual k-means {codes}"] = codes, codes * train.shape[1], _fit(base, held_out, np.stack(parts, axis=1), clock)
    for beam in (1, 5):
        clock = time.perf_counter()
        quantizer = faiss.ResidualQuantizer(dim, 4, 9)
        quantizer.max_beam_size = beam
        quantizer.train(train.reshape(-1, dim))
        decoded = quantizer.decode(quantizer.compute_codes(held_out.reshape(-1, dim))).reshape(held_out.shape)
        found[f"faiss ResidualQuantizer, beam {beam}"] = 512, 512, _fit(base, held_out, decoded, clock)
    return found


def _fit(base, held_out, decoded, clock) -> Fit:  # type: ignore[no-untyped-def]
    return Fit(error=base.relative_error(held_out, decoded), least_usage=float("nan"), seconds=time.perf_counter() - clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default="", help="only those of ours whose name holds this, such as 'beam 1'")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    rows: dict[str, tuple[int, int, list[Fit]]] = {}
    for seed in arguments.seeds:
        train, held_out = vectors(seed)
        arrays = [np.stack([x.numpy() for x in side], axis=1) for side in (train, held_out)]
        found = {} if arguments.rows else plain(*arrays)
        for name, (reach, exist, config) in OURS.items():
            if arguments.rows not in name:
                continue
            found[name] = reach, exist, measured(of_six_sources(train, held_out), QuantizerConfig(**config), seed=seed)  # type: ignore[arg-type]
            print(f"seed {seed}  {name:34}{found[name][2].error:8.4f}{found[name][2].seconds:8.1f} s", flush=True)
        for name, (reach, exist, fit) in found.items():
            rows.setdefault(name, (reach, exist, []))[2].append(fit)
    print(f"\n{'quantizer':34}{'reach / exist':>15}{'error':>8}{'spread':>8}{'least usage':>13}{'seconds':>9}")
    for name, (reach, exist, fits) in rows.items():
        errors = [fit.error for fit in fits]
        usage = min(fit.least_usage for fit in fits)
        seconds = statistics.mean(fit.seconds for fit in fits)
        print(f"{name:34}{f'{reach} / {exist}':>15}{statistics.mean(errors):8.4f}{max(errors) - min(errors):8.4f}{usage:13.3f}{seconds:9.1f}")


if __name__ == "__main__":
    main()
