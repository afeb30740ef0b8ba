"""Training's progress on a terminal: one line that follows the work, and one that stays for each finished phase and epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

from u2qt_model.progress import Progress

PHASES = {"qformer": "Q-Former, reading for the moments", "first_pass": "reading for the start", "start": "started by k-means", "epoch": "epoch"}


@contextmanager
def on_terminal(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A callback that keeps the last state in a status line and prints each finished phase or epoch."""
    with Status("reading the first rows", console=console) as status:
        last: list[Progress] = []

        def show(progress: Progress) -> None:
            if last and (last[-1].phase, last[-1].epoch) != (progress.phase, progress.epoch):
                console.print(line(last[-1]))
            last[:] = [progress]
            status.update(line(progress))

        yield show
        if last:
            console.print(line(last[-1]))


def line(progress: Progress) -> str:
    """One state in words; what a phase doesn't know is left out."""
    names = {"epoch": "epoch", "qformer": "Q-Former epoch"}
    name = f"{names[progress.phase]} {progress.epoch}" if progress.epoch and progress.phase in names else PHASES[progress.phase]
    parts = [f"{name}: {progress.users:,} user-days"]
    if progress.error is not None:
        parts.append(f"error {progress.error:.4f}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.usage is not None:
        parts.append(f"usage {progress.usage:.2f}")
    if progress.users_per_second:
        parts.append(f"{progress.users_per_second:,.0f}/s")
    return ", ".join(parts)
