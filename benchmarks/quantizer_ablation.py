"""Each switch of the quantizer by itself, greedy where not said: held-out error on the six-source vectors, or on a lakehouse's real slices."""

import argparse
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.quantizers import WIDTH
from benchmarks.real_slices import batches, real_slices
from benchmarks.six_sources import Slices, measured, of_six_sources, vectors
from schemas import keys
from schemas.keys import Days
from u2qt_model.config import QuantizerConfig

Variant = tuple[dict[str, Any], dict[str, int]]
COPIED = {"gradient": "straight_through"}
EMA = {"codebooks": "ema", "joint_rounds": 0}
DEMO = {"shared_levels": 2, "own_levels": 2, "codebook_size": 64}
DEMO_WIDTH = {"layout": "width", "shared_levels": 4, "own_levels": 4, "codebook_size": 32, "own_size": 16}


def variants(hidden: int) -> dict[str, Variant]:
    """Changes of the configuration, networks and epochs, by what they are called; networks are `hidden` wide."""
    networks = {"hidden": hidden, "epochs": 5}
    return {
        "as published: k-means++, 20 joint rounds": ({}, {}),
        "first codewords drawn evenly": ({"start": "random"}, {}),
        "no restart of dead codes": ({"restart_dead": False}, {}),
        "no joint rounds": ({"joint_rounds": 0}, {}),
        "beam 4": ({"beam": 4}, {}),
        "+ 5 joint epochs, no networks": ({}, {"epochs": 5}),
        "+ 5 epochs, networks": (COPIED, networks),
        "+ 5 epochs, networks, rotation": ({}, networks),
        "+ 5 epochs, networks, moving averages": ({"codebooks": "ema", **COPIED}, networks),
        "no rounds, 5 epochs, moving averages": (EMA, {"epochs": 5}),
        "no rounds, 5 epochs, gradient codebooks": ({"codebooks": "gradient", "joint_rounds": 0}, {"epochs": 5}),
        "no rounds, averages, networks": ({**EMA, **COPIED}, networks),
        "no rounds, averages, networks, rotation": (EMA, networks),
        "no rounds, averages, networks, balanced": ({**EMA, **COPIED, "balance": 0.05}, networks),
        "no rounds, averages, networks, warm-up 2": ({**EMA, **COPIED, "warm_up_epochs": 2}, networks),
    }


def six_sources(seeds: list[int], users: int) -> Iterator[tuple[int, Slices]]:
    for seed in seeds:
        yield seed, of_six_sources(*vectors(seed, users))


def lakehouse(seeds: list[int], root: Path, days: Days) -> Iterator[tuple[int, Slices]]:
    catalog = os.environ.get("U2QT_CATALOG")
    layout, rows = batches(root, Path(catalog) if catalog else None, days)
    for seed in seeds:
        slices = real_slices(layout, rows, seed)
        print(f"slices of {', '.join(f'{n} {len(x):,}' for n, x in zip(layout.source_names, slices.fitting, strict=True))}", flush=True)
        yield seed, slices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=10_000, help="six-source users")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slices", type=Path, help="a lakehouse, of the catalog that U2QT_CATALOG names, instead of the six-source vectors")
    parser.add_argument("--from", dest="first", type=keys.day, help="first day, with --slices")
    parser.add_argument("--to", dest="last", type=keys.day, help="last day, with --slices")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.slices:
        if not (arguments.first and arguments.last):
            parser.error("--slices: expected --from and --to too")
        found, base, hidden = lakehouse(arguments.seeds, arguments.slices, Days(arguments.first, arguments.last)), DEMO, 128
        tried = variants(hidden) | {"layout width 32 + 16": (DEMO_WIDTH, {}), "layout width 32 + 16, beam 4": ({**DEMO_WIDTH, "beam": 4}, {})}
    else:
        found, base, tried = six_sources(arguments.seeds, arguments.users), WIDTH, variants(256)
    report(found, base, tried)


def report(found: Iterator[tuple[int, Slices]], base: dict[str, Any], tried: dict[str, Variant]) -> None:
    """Prints every fit, then a line per variant."""
    errors: dict[str, list[float]] = {name: [] for name in tried}
    usage: dict[str, float] = dict.fromkeys(tried, 1.0)
    for seed, slices in found:
        for name, (change, run) in tried.items():
            fit = measured(slices, QuantizerConfig(**{**base, **change}), seed=seed, **run)
            errors[name].append(fit.error)
            usage[name] = min(usage[name], fit.least_usage)
            print(f"seed {seed}  {name:44}{fit.error:8.4f}{fit.least_usage:7.2f}{fit.seconds:8.1f} s", flush=True)
    print(f"\n{'variant':44}{'error':>8}{'against the first':>19}{'least usage':>24}")
    for name, seen in errors.items():
        ratios = [a / b for a, b in zip(seen, errors[next(iter(tried))], strict=True)]
        print(f"{name:44}{statistics.mean(seen):8.4f}{statistics.mean(ratios):10.3f} ({min(ratios):.3f} to {max(ratios):.3f}){usage[name]:13.2f}")


if __name__ == "__main__":
    main()
