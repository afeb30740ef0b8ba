"""Several processes that train one tokenizer: who they are and how they agree. The only module that knows process groups.

`Ranks` is a process on its own: nothing is sent, and every method gives back what it got. `GroupedRanks` is one process
of several, started by torchrun or Spark's TorchDistributor; every method is then collective: all ranks call it, in the
same order. A rank that dies is the launcher's to notice, which ends the others. N, M rows.
"""

import hashlib
import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from u2qt_model.errors import TrainingError

T = TypeVar("T")
BACKENDS = ("gloo", "nccl")
PATIENCE = timedelta(hours=6)  # for one answer: the others wait while the first rank starts the codebooks


class Ranks:
    """One process that trains alone."""

    number = 0
    count = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files and reports."""
        return self.number == 0

    def rng(self, *entropy: int) -> np.random.Generator:
        """Of its own: two ranks never draw the same."""
        return np.random.default_rng(entropy)

    def part(self, size: int) -> int:
        """A rank's part of a step of `size` users, rounded up."""
        return size

    def mine(self, x: Tensor) -> Tensor:
        """This rank's rows (M, ...) of `x` (N, ...), which all ranks have alike."""
        return x

    def whole(self, part: Tensor) -> Tensor:
        """(N, ...) on every rank, of what each made of its `mine` (M, ...): the inverse."""
        return part

    def gather(self, x: Tensor) -> Tensor:
        """All ranks' rows (N, ...), in the order of ranks, on every one; each gives any number of them."""
        return x

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each by its sum over ranks; all of one type."""

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each by the first rank's."""

    def share_bytes(self, content: bytes | None) -> bytes | None:
        """The first rank's."""
        return content

    def average_gradients(self, parameters: Sequence[Tensor], members: int) -> None:
        """Replaces gradients of means over `members` by that of the mean over all ranks' members."""

    def in_step(self, items: Iterator[T]) -> Iterator[T | None]:
        """`items`, then None until every rank has run out: ranks with fewer steps take part in the others'."""
        yield from items

    def require_equal(self, tensors: Mapping[str, Tensor], when: str) -> None:
        """TrainingError, on every rank, unless all have the same bits."""


ALONE = Ranks()


class GroupedRanks(Ranks):
    """One of the processes of torch's default process group."""

    def __init__(self, device: torch.device) -> None:
        """`device` is where the backend wants what it sends; the tensors themselves stay where they are."""
        self.number, self.count, self._device = dist.get_rank(), dist.get_world_size(), device

    def rng(self, *entropy: int) -> np.random.Generator:
        """Of its own."""
        return np.random.default_rng((*entropy, self.number))

    def part(self, size: int) -> int:
        """Rounded up."""
        return -(-size // self.count)

    def mine(self, x: Tensor) -> Tensor:
        """Every `count`-th row."""
        return x[self.number :: self.count]

    def whole(self, part: Tensor) -> Tensor:
        """The rows in their old order."""
        gathered = self.gather(part)
        places = torch.cat([torch.arange(len(gathered))[number :: self.count] for number in range(self.count)])
        return torch.empty_like(gathered).index_copy_(0, places, gathered)

    def gather(self, x: Tensor) -> Tensor:
        """Each rank sends its rows to all others, one rank after the other: no padding."""
        lengths = torch.zeros(self.count, dtype=torch.int64)
        lengths[self.number] = len(x)
        self.add([lengths])
        parts = [x if number == self.number else torch.empty(length, *x.shape[1:], dtype=x.dtype) for number, length in enumerate(lengths.tolist())]
        for number, part in enumerate(parts):
            if part.numel():
                self._sent(part, partial(dist.broadcast, src=number))
        return torch.cat(parts)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """One message for all of them."""
        if len(tensors) == 1:
            self._sent(tensors[0], dist.all_reduce)
        elif tensors:
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
            self._sent(flat, dist.all_reduce)
            for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
                tensor.detach().copy_(summed.view(tensor.shape))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """One after the other."""
        for tensor in tensors:
            if tensor.numel():
                self._sent(tensor, partial(dist.broadcast, src=0))

    def share_bytes(self, content: bytes | None) -> bytes | None:
        """Length first, then what there is."""
        given = content if self.is_first else None
        length = torch.tensor([-1 if given is None else len(given)])
        self.share([length])
        if int(length) < 0:
            return None
        sent = torch.frombuffer(bytearray(given), dtype=torch.uint8) if given else torch.empty(int(length), dtype=torch.uint8)
        self.share([sent])
        return sent.numpy().tobytes()

    def average_gradients(self, parameters: Sequence[Tensor], members: int) -> None:
        """A parameter that no rank's loss reached keeps no gradient, so that its moments rest, as in one process."""
        reached = [float(parameter.grad is not None) for parameter in parameters]
        facts = torch.tensor([float(members), *reached])
        weighted = [torch.zeros_like(p) if p.grad is None else p.grad * members for p in parameters]
        self.add([facts, *weighted])
        everyone = facts[0].clamp_min(1)
        for parameter, total, ranks in zip(parameters, weighted, facts[1:].tolist(), strict=True):
            parameter.grad = total.detach() / everyone if ranks else None

    def in_step(self, items: Iterator[T]) -> Iterator[T | None]:
        """One small message per step."""
        while True:
            item = next(items, None)
            going_on = torch.tensor([int(item is not None)])
            self.add([going_on])
            if not int(going_on):
                return
            yield item

    def require_equal(self, tensors: Mapping[str, Tensor], when: str) -> None:
        """Compares sha256 over names and bytes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        found = self.gather(torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)[None])
        others = torch.nonzero((found != found[0]).any(dim=1)).flatten().tolist()
        if others:
            raise TrainingError(f"{when}: ranks {others} have other weights than rank 0, expected equal ones; give all ranks one type of machine and one build")

    def _sent(self, tensor: Tensor, collective: Callable[[Tensor], Any]) -> None:
        """The collective on `tensor`, in place; not every backend knows bool."""
        inside = tensor.detach()
        sent = inside.contiguous().view(torch.uint8) if inside.dtype == torch.bool else inside.contiguous()
        sent = sent.to(self._device)
        collective(sent)
        if sent.data_ptr() != inside.data_ptr():
            inside.copy_(sent)


@contextmanager
def grouped_ranks(backend: str = "gloo") -> Iterator[Ranks]:
    """This process's place in the group that torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) describe.

    Alone without them, or in a group of one. TrainingError for an unknown backend, and for nccl without a GPU.
    """
    if backend not in BACKENDS:
        raise TrainingError(f"backend: found {backend!r}, expected {' or '.join(BACKENDS)}")
    if backend == "nccl" and not torch.cuda.is_available():
        raise TrainingError("backend: found nccl on a machine without a CUDA device, expected gloo")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    # Its functions' defaults keep the group that is there when something first imports it: threads would outlive the group, and end us with 134.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group(backend, timeout=PATIENCE)
    yield GroupedRanks(device)
    dist.destroy_process_group()  # not after an error: it would wait for the ranks that the error left behind
