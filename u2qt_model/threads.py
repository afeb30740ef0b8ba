"""A fixed number of torch threads around a block: another number gives other last bits, now and then other codes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Sets torch's intra-op threads and restores what was set before, even after an error."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
