"""The refiners of all quantizers of a tokenizer, as one. S sources, N_s slices of source s in a step, D dimensions."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from u2qt_model.refine import Refiner
from u2qt_model.source_quantizers import Part


class Refiners:
    """Each step and epoch goes to every refiner with its own sources; false where there is none."""

    def __init__(self, refiners: Sequence[tuple[Part, Refiner]]) -> None:
        self._refiners = tuple(refiners)

    def __len__(self) -> int:
        return len(self._refiners)

    def start_epoch(self, epoch: int) -> None:
        """Epochs count from 1."""
        for _, refiner in self._refiners:
            refiner.start_epoch(epoch)

    def step(self, slices: list[Tensor]) -> tuple[float, float]:
        """One step on S tensors (N_s, D); summed squared error and summed squared length."""
        found = [refiner.step(part.of(slices)) for part, refiner in self._refiners]
        return sum(error for error, _ in found), sum(length for _, length in found)

    def usage(self) -> float:
        """Share of all codes given out since the epoch began."""
        found = [refiner.usage() for _, refiner in self._refiners]
        return sum(used for used, _ in found) / sum(codes for _, codes in found)

    def finish_epoch(self) -> None:
        """As `Refiner.finish_epoch`."""
        for _, refiner in self._refiners:
            refiner.finish_epoch()

    def state(self) -> dict[str, Tensor]:
        """What `load` goes on from after an epoch."""
        return {f"{index}.{name}": tensor for index, (_, refiner) in enumerate(self._refiners) for name, tensor in refiner.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for index, (_, refiner) in enumerate(self._refiners):
            prefix = f"{index}."
            refiner.load({name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)})

    def close(self) -> None:
        """Training is over."""
        for _, refiner in self._refiners:
            refiner.close()
