"""Each switch of the quantizer by itself, on the six-source vectors (width 128 + 64, greedy), three seeds: held-out error."""

import argparse
import statistics
from typing import Any

import torch

from benchmarks.quantizers import WIDTH
from benchmarks.six_sources import measured, vectors
from u2qt_model.config import QuantizerConfig

EMA = {"codebooks": "ema", "joint_rounds": 0}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "as published: k-means++, 20 joint rounds": ({}, {}),
    "first codewords drawn evenly": ({"start": "random"}, {}),
    "no restart of dead codes": ({"restart_dead": False}, {}),
    "no joint rounds": ({"joint_rounds": 0}, {}),
    "beam 4": ({"beam": 4}, {}),
    "+ 5 joint epochs, no networks": ({}, {"epochs": 5}),
    "+ 5 epochs, networks": ({}, {"hidden": 256, "epochs": 5}),
    "+ 5 epochs, networks, rotation": ({"gradient": "rotation"}, {"hidden": 256, "epochs": 5}),
    "+ 5 epochs, networks, moving averages": ({"codebooks": "ema"}, {"hidden": 256, "epochs": 5}),
    "no rounds, 5 epochs, moving averages": (EMA, {"epochs": 5}),
    "no rounds, 5 epochs, gradient codebooks": ({"codebooks": "gradient", "joint_rounds": 0}, {"epochs": 5}),
    "no rounds, averages, networks": (EMA, {"hidden": 256, "epochs": 5}),
    "no rounds, averages, networks, rotation": ({**EMA, "gradient": "rotation"}, {"hidden": 256, "epochs": 5}),
    "no rounds, averages, networks, balanced": ({**EMA, "balance": 0.05}, {"hidden": 256, "epochs": 5}),
    "no rounds, averages, networks, warm-up 2": ({**EMA, "warm_up_epochs": 2}, {"hidden": 256, "epochs": 5}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    errors: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in arguments.seeds:
        train, held_out = vectors(seed, arguments.users)
        for name, (change, run) in VARIANTS.items():
            fit = measured(train, held_out, QuantizerConfig(**{**WIDTH, **change}), seed=seed, **run)
            errors[name].append(fit.error)
            print(f"seed {seed}  {name:44}{fit.error:8.4f}{fit.least_usage:7.2f}{fit.seconds:8.1f} s", flush=True)
    print(f"\n{'variant':44}{'error':>8}{'against the first':>19}")
    for name, found in errors.items():
        ratios = [a / b for a, b in zip(found, errors[next(iter(VARIANTS))], strict=True)]
        print(f"{name:44}{statistics.mean(found):8.4f}{statistics.mean(ratios):10.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
