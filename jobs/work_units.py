"""Shares row groups out to tasks. Pure functions of integers: which unit goes where, and that none is lost or doubled."""

import heapq
from collections.abc import Sequence

TASKS_PER_SLOT = 8  # tasks of a write over many days; a task then writes several days, one after the other


def write_tasks(files: int, slots: int) -> int:
    """Tasks that write `files` files: one each while they are few, then eight per slot; a task costs 10 ms and more."""
    return max(1, min(files, TASKS_PER_SLOT * slots))


def balanced(rows: Sequence[int], bins: int) -> list[list[int]]:
    """Positions of `rows` in at most `bins` non-empty bins, heaviest first into the lightest bin.

    Every position is in exactly one bin, and no bin holds more than the mean plus the largest unit.
    """
    if bins < 1:
        raise ValueError(f"bins: found {bins}, expected 1 or more")
    loads = [(0, b) for b in range(bins)]
    members: list[list[int]] = [[] for _ in range(bins)]
    for position in sorted(range(len(rows)), key=lambda p: (-rows[p], p)):
        load, lightest = heapq.heappop(loads)
        members[lightest].append(position)
        heapq.heappush(loads, (load + rows[position], lightest))
    return [sorted(positions) for positions in members if positions]
