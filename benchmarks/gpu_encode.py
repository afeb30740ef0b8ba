"""Projection, network and search of `base` on a GPU, in float32 and bfloat16: users/s, step time, share of the matrix rate, codes that differ from the CPU's.

Made-up slices of 1,024 values from 64 directions; a user-day has six. Stage 1 is not in it: hashing runs on CPUs, text models have
a benchmark of their own. `u2qt encode` doesn't use a GPU for this part; the figures say what it would gain.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from u2qt_model.kmeans_start import start_codebooks
from u2qt_model.presets import base
from u2qt_model.residual_quantizer import ResidualQuantizer
from u2qt_model.slice_encoder import Projection

WIDTH, DIRECTIONS, SOURCES = 1024, 64, 6
STEP_SLICES = 1024 * SOURCES  # of a training step
TURNS = 10
SIDES = {"cuda": 8192, "cpu": 1024}  # of the square matrices whose product gives the matrix rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a slice passes: as source 0 of one."""

    projection: Projection
    quantizer: ResidualQuantizer

    def to(self, device: str, dtype: torch.dtype) -> "Parts":
        """A copy there."""
        fresh = parts_like(self)
        return Parts(projection=fresh.projection.to(device, dtype), quantizer=fresh.quantizer.to(device, dtype))

    def encode(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.quantizer.encode(self.projection(x), 0)


def empty_parts() -> Parts:
    config = base()
    projection = Projection(WIDTH, config.encoder.code_dim, config.encoder.clip)
    quantizer = ResidualQuantizer(1, config.encoder.code_dim, config.encoder.hidden, config.quantizer, torch.Generator().manual_seed(0))
    return Parts(projection=projection, quantizer=quantizer)


def parts_like(other: Parts) -> Parts:
    found = empty_parts()
    found.projection.load_state_dict(other.projection.state_dict())
    found.quantizer.load_state_dict(other.quantizer.state_dict())
    return found


def started(x: Tensor) -> Parts:
    """Projected and started on the first slices; the networks turned a little away from the identity, as training leaves them."""
    found = empty_parts()
    sample = x[:20_000]
    found.projection.fit(sample.double().mean(dim=0), sample.double().var(dim=0), sample)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in found.quantizer.parameters():
            weights.add_(0.02 * torch.randn(weights.shape, generator=generator))
        latent = found.quantizer.to_latent(found.projection(sample), 0)
        start_codebooks(found.quantizer.codebooks, [latent], generator)
    return found


def flops_per_slice() -> int:
    """Multiplications and additions of projection, network and greedy search."""
    config = base()
    dim, hidden = config.encoder.code_dim, config.encoder.hidden
    return 2 * (WIDTH * dim + 2 * dim * hidden + config.quantizer.num_levels * config.quantizer.codebook_size * dim)


def seconds(work: Callable[[], object], device: str) -> float:
    """The least of TURNS turns, after one that warms up."""
    found = []
    for _ in range(TURNS + 1):
        clock = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - clock)
    return min(found[1:])


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    side = SIDES[device]
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: one @ other, device)


def step_time(parts: Parts, x: Tensor, device: str, dtype: torch.dtype) -> float:
    """Seconds of a gradient step of one source's networks."""
    there, slices = parts.to(device, dtype), x[:STEP_SLICES].to(device, dtype)
    projected = there.projection(slices)
    optimizer = torch.optim.AdamW(there.quantizer.parameters(), lr=1e-3)

    def step() -> None:
        latent = there.quantizer.to_latent(projected, 0)
        with torch.no_grad():
            codes = there.quantizer.codebooks.encode(latent, 0)
        optimizer.zero_grad()
        (there.quantizer.loss(projected, latent, codes, 0) / len(projected)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return seconds(step, device)


def report(parts: Parts, x: Tensor, device: str, dtype: torch.dtype) -> str:
    """One line: speed, share of the matrix rate, step time, codes that differ and how near their second best was."""
    there, slices = parts.to(device, dtype), x.to(device, dtype)
    took = seconds(lambda: there.encode(slices), device)
    rate = flops_per_slice() * len(x) / took / matrix_rate(device, dtype)
    expected, found = parts.encode(x), there.encode(slices).cpu()
    with torch.inference_mode():
        margins = parts.quantizer.margins(parts.projection(x), expected, 0)
    first = (found != expected).int().cumsum(dim=1) == 1  # a slice's levels below its first other code differ for that reason
    other = first & (found != expected)
    near = margins[other].quantile(0.5).item() if other.any() else float("nan")
    shares = f"codes that differ {(found != expected).float().mean():.2%}, slices {other.any(dim=1).float().mean():.2%}"
    return (
        f"{device} {str(dtype).removeprefix('torch.'):9}{len(x) / SOURCES / took:12,.0f} user-days/s, {rate:.1%} of the matrix rate, step "
        f"{1e3 * step_time(parts, x, device, dtype):.2f} ms; {shares}, median margin of the first {near:.2g} (of all {margins.median():.2g})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=sorted(SIDES), default="cuda", help="cpu runs the same calls, for comparison")
    parser.add_argument("--slices", type=int, default=120_000)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"no GPU: torch {torch.__version__} (CUDA {torch.version.cuda or 'not built in'}) sees none, expected one; run this on a machine "
            "with an NVIDIA GPU and torch's CUDA build, or give --device cpu"
        )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(arguments.slices, DIRECTIONS, generator=generator) @ torch.randn(DIRECTIONS, WIDTH, generator=generator)
    x += 0.3 * torch.randn(x.shape, generator=generator)
    parts = started(x)
    for dtype in (torch.float32, torch.bfloat16):
        print(report(parts, x, arguments.device, dtype), flush=True)


if __name__ == "__main__":
    main()
