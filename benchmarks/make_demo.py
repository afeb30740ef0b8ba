"""Minutes of `make demo` from a clean clone, the environment and the run apart."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def timed(*command: str, cwd: Path) -> float:
    clock = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, "U2QT_ROOT": ""})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - clock


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "u2qt"
        timed("git", "clone", "--quiet", str(REPOSITORY), str(clone), cwd=REPOSITORY)
        environment = timed("make", "env", cwd=clone)
        run = timed("make", "demo", cwd=clone)
    print(f"\nmake demo from a clean clone: environment {environment / 60:.1f} min, run {run / 60:.1f} min (5,000 users, 7 days)")


if __name__ == "__main__":
    main()
