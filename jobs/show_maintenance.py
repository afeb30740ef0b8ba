"""Prints a maintenance: what went, what was put together, what is kept for readers, and disk use before and after."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.maintain_lakehouse import Maintenance
from jobs.table_files import Use


def render(done: Maintenance) -> RenderableType:
    """Without `after` everything is said of what would be done."""
    dry = not done.after
    lines = [f"{'would remove' if dry else 'removed'} {r.table}: {r.rows:,} rows in {r.files:,} files, days up to {r.through}" for r in done.removed]
    lines += [f"compacted {table}: {before:,} files became {after:,}" for table, (before, after) in done.compacted.items()]
    lines += [f"would compact {table}: {ranges:,} ranges of partitions" for table, ranges in done.crowded.items()]
    lines += [f"{'would remove' if dry else 'removed'} {path}: its training is registered" for path in done.leftovers]
    lines += [str(done.horizon)]
    return Group(_uses(done), "", *(Text(line, overflow="fold") for line in lines))


def _uses(done: Maintenance) -> Table:
    """Tables without a file are left out."""
    table = Table("table", "live files", "dead files", "live", "dead", "log", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    shown = {name: (use, done.after.get(name, use)) for name, use in done.before.items() if use.files}
    for name, (before, after) in shown.items():
        table.add_row(name, *_cells(before, after))
    if shown:
        table.add_row("all", *_cells(_sum([before for before, _ in shown.values()]), _sum([after for _, after in shown.values()])), style="bold")
    return table


def _cells(before: Use, after: Use) -> list[str]:
    counts = [(before.live_files, after.live_files), (before.dead_files, after.dead_files)]
    sizes = [(before.live_bytes, after.live_bytes), (before.dead_bytes, after.dead_bytes), (before.log_bytes, after.log_bytes)]
    return [_change(f"{old:,}", f"{new:,}") for old, new in counts] + [_change(_size(old), _size(new)) for old, new in sizes]


def _change(old: str, new: str) -> str:
    return old if old == new else f"{old} > {new}"


def _sum(uses: list[Use]) -> Use:
    names = ("live_files", "live_bytes", "dead_files", "dead_bytes", "log_bytes")
    return Use(**{name: sum(getattr(use, name) for use in uses) for name in names})


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
