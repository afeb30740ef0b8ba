"""Processes that train together on 127.0.0.1, for tests: started once, they work off a list of cases."""

import json
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

PATIENCE = 900.0  # seconds for all cases; about 20 on two free cores


def together(work: Callable[..., None], count: int, folder: Path, *arguments: Any) -> None:
    """Calls `work(number, folder, *arguments)` in `count` processes of one group; raises what any of them raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    processes = [context.Process(target=_rank, args=(work, number, count, port, folder, *arguments), daemon=True) for number in range(count)]
    for process in processes:
        process.start()
    end = time.monotonic() + PATIENCE
    while any(process.is_alive() for process in processes) and not list(folder.glob("*.failed")) and time.monotonic() < end:
        time.sleep(0.05)
    for process in processes:
        process.join(0 if list(folder.glob("*.failed")) else 5)
        process.kill()
        process.join()
    for failed in sorted(folder.glob("*.failed")):
        raise AssertionError(failed.read_text())
    assert [process.exitcode for process in processes] == [0] * count


def _rank(work: Callable[..., None], number: int, count: int, port: int, folder: Path, *arguments: Any) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    try:
        work(number, folder, *arguments)
    except BaseException:
        (folder / f"{number}.failed").write_text(traceback.format_exc())
        raise


def write_json(path: Path, found: Any) -> None:
    """What a rank found, for the test to read."""
    path.write_text(json.dumps(found))
