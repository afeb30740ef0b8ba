"""All figures of docs/benchmarks.md, one after the other: about 20 minutes on 2 cores."""

import subprocess
import sys

MODULES = ("make_demo", "run_day", "encode_against_torch", "gate_cost", "bytes_per_user_day")


def main() -> None:
    for module in MODULES:
        print(f"\n$ python -m benchmarks.{module}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], check=True)


if __name__ == "__main__":
    main()
