"""Thousands of vectors a second, interleaved: our search, the same with a source's encoder in front, and faiss ResidualQuantizer.

D = 128, L = 4, K = 256. The encoder of `base`: hashed words of 1,024 numbers projected to 128, then a network 256 wide.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import faiss
import torch
from torch import Tensor

from u2qt_model.beam_search import beam_search, prepared
from u2qt_model.slice_encoder import NearIdentity, Projection

DIM, LEVELS, BITS, ROWS = 128, 4, 8, 60_000
WIDTH, HIDDEN, BLOCK = 1024, 256, 1024  # as in `base`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # per thread of the pool, as in an executor's tasks
    faiss.omp_set_num_threads(arguments.threads)
    x = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    embedded = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    projection = Projection(WIDTH, DIM, 10.0).requires_grad_(False)
    projection.fit(torch.zeros(WIDTH, dtype=torch.float64), torch.ones(WIDTH, dtype=torch.float64), embedded[:10_000])
    encoder = torch.nn.Sequential(projection, NearIdentity(DIM, HIDDEN, torch.Generator().manual_seed(0))).requires_grad_(False)
    with ThreadPoolExecutor(arguments.threads) as pool:
        for beam in (1, 4):
            _compare(x, embedded, encoder, beam, pool, arguments)


def _compare(x: Tensor, embedded: Tensor, encoder: torch.nn.Module, beam: int, pool: ThreadPoolExecutor, arguments: argparse.Namespace) -> None:
    """Prints a beam's line."""
    plain = faiss.ResidualQuantizer(DIM, LEVELS, BITS)
    plain.max_beam_size = beam
    plain.train(x[:10_000].numpy())
    codewords = torch.from_numpy(faiss.vector_to_array(plain.codebooks)).view(LEVELS, -1, DIM)
    tables = prepared([(table, torch.ones(len(table), dtype=torch.bool)) for table in codewords], crossings=beam > 1)
    parts = x.chunk(arguments.threads)

    wide = embedded.chunk(arguments.threads)

    def encoded(part: Tensor) -> list[Tensor]:
        return [beam_search(encoder(block), tables, beam) for block in part.split(BLOCK)]

    works: dict[str, Callable[[], object]] = {
        "ours": lambda: list(pool.map(lambda part: beam_search(part, tables, beam), parts)),
        "with its encoder": lambda: list(pool.map(encoded, wide)),
        "faiss": lambda: plain.compute_codes(x.numpy()),
    }
    speeds, by_processor = _interleaved(list(works.values()), arguments.rounds)
    shown = ", ".join(f"{name} {statistics.median(found):.0f} k/s" for name, found in zip(works, speeds, strict=True))
    cost = _ratio(by_processor[1], by_processor[0])
    print(f"beam {beam}: {shown}; ours / faiss {_ratio(speeds[0], speeds[2])}; with its encoder / ours, by processor time, {cost}", flush=True)


def _ratio(one: list[float], other: list[float]) -> str:
    ratios = sorted(a / b for a, b in zip(one, other, strict=True))
    return f"{statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})"


def _interleaved(works: list[Callable[[], object]], rounds: int) -> tuple[list[list[float]], list[list[float]]]:
    """Per work its thousands of vectors in each round, a second on the clock and a second of all its threads."""
    speeds: tuple[list[list[float]], list[list[float]]] = ([[] for _ in works], [[] for _ in works])
    for turn in range(rounds + 1):  # the first turn warms up
        for number, work in enumerate(works):
            clocks = time.perf_counter(), time.process_time()
            work()
            for found, clock, now in zip(speeds, clocks, (time.perf_counter(), time.process_time()), strict=True):
                if turn:
                    found[number].append(ROWS / (now - clock) / 1e3)
    return speeds


if __name__ == "__main__":
    main()
