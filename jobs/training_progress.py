"""Training's progress on a terminal: a line per epoch, updated in place where the terminal allows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

from u2qt_model.train import Progress


@contextmanager
def on_terminal(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A callback that keeps the last state in a status line and prints each finished epoch."""
    with Status("reading the first rows", console=console) as status:
        last: list[Progress] = []

        def show(progress: Progress) -> None:
            if last and last[-1].epoch != progress.epoch:
                console.print(_line(last[-1]))
            last[:] = [progress]
            status.update(_line(progress))

        yield show
        if last:
            console.print(_line(last[-1]))


def _line(progress: Progress) -> str:
    return (
        f"epoch {progress.epoch} step {progress.step}: error {progress.error:.4f}, "
        f"usage {progress.usage:.2f}, {progress.users_per_second:,.0f} users/s"
    )
