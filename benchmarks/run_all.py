"""All figures of docs/benchmarks.md, one after the other: about an hour on 2 quiet cores."""

import subprocess
import sys

MODULES = ("make_demo", "run_day", "encode_against_torch", "gate_cost", "bytes_per_user_day", "quantizers", "quantizer_ablation", "search_speed")


def main() -> None:
    for module in MODULES:
        print(f"\n$ python -m benchmarks.{module}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], check=True)


if __name__ == "__main__":
    main()
