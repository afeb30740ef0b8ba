"""Thousands of vectors a second through our search and faiss ResidualQuantizer, D = 128, L = 4, K = 256, interleaved."""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import faiss
import torch

from u2qt_model.beam_search import beam_search, prepared

DIM, LEVELS, BITS, ROWS = 128, 4, 8, 60_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # per thread of the pool, as in an executor's tasks
    faiss.omp_set_num_threads(arguments.threads)
    x = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(arguments.threads) as pool:
        for beam in (1, 4):
            plain = faiss.ResidualQuantizer(DIM, LEVELS, BITS)
            plain.max_beam_size = beam
            plain.train(x[:10_000].numpy())
            codewords = torch.from_numpy(faiss.vector_to_array(plain.codebooks)).view(LEVELS, -1, DIM)
            tables = prepared([(table, torch.ones(len(table), dtype=torch.bool)) for table in codewords], crossings=beam > 1)
            ours, faiss_speed = _interleaved(
                lambda: list(pool.map(lambda part: beam_search(part, tables, beam), x.chunk(arguments.threads))),  # noqa: B023
                lambda: plain.compute_codes(x.numpy()),  # noqa: B023
                arguments.rounds,
            )
            ratios = sorted(a / b for a, b in zip(ours, faiss_speed, strict=True))
            print(
                f"beam {beam}: ours {statistics.median(ours):6.0f} k/s, faiss {statistics.median(faiss_speed):6.0f} k/s, "
                f"ratio {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )


def _interleaved(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    speeds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):  # the first turn warms up
        for work, found in zip((one, other), speeds, strict=True):
            clock = time.perf_counter()
            work()
            if turn:
                found.append(ROWS / (time.perf_counter() - clock) / 1e3)
    return speeds


if __name__ == "__main__":
    main()
