"""The figures of docs/benchmarks.md but for the kills, text models and GPUs, one after the other: some three hours on 2 quiet cores."""

import os
import subprocess
import sys

MADE = "/tmp/u2qt-bench"
DEMO_SLICES = ("--slices", f"{MADE}/evaluation-2000/lakehouse", "--from", "2024-01-01", "--to", "2024-01-07")
DUMP_SLICES = ("--slices", f"{MADE}/evaluation-beer.stackexchange.com/lakehouse", "--from", "2014-01-21", "--to", "2016-12-11")
RUNS: tuple[tuple[str, ...], ...] = (
    ("make_demo",),
    ("bad_inputs",),
    ("rerun_day",),
    ("maintain",),
    ("run_day",),
    ("encode_against_torch",),
    ("gate_cost",),
    ("bytes_per_user_day",),
    ("quantizers", "--threads", "1"),
    ("quantizer_ablation",),
    ("search_speed",),
    ("evaluation",),
    ("evaluation_stackexchange",),
    ("evaluation_stackexchange", "--versions", "depth", "rq-kmeans", "--seeds", "0", "1", "2"),
    ("quantizer_ablation", "--threads", "1", *DEMO_SLICES),
    ("quantizer_ablation", "--threads", "1", *DUMP_SLICES),
)


def main() -> None:
    for module, *options in RUNS:
        print(f"\n$ python -m benchmarks.{' '.join((module, *options))}", flush=True)
        catalog = {"U2QT_CATALOG": "examples/stackexchange"} if options[-4:] == list(DUMP_SLICES[-4:]) else {}
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *options], check=True, env=os.environ | catalog)


if __name__ == "__main__":
    main()
