"""Prints registered tokenizers: what `u2qt tokenizer show` and `list` say."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from jobs.registered_tokenizers import Registered


def render_list(registered: Sequence[Registered], promoted: str | None) -> Table:
    table = Table(title="tokenizers (* promoted)", title_justify="left")
    for name in ("version", "fingerprint", "trained on", "levels", "vocabulary", "checkpoint"):
        table.add_column(name)
    for r in registered:
        mark = "*" if r.version == promoted else ""
        levels, vocabulary = str(r.layout["num_levels"]), str(r.layout["vocabulary_size"])
        table.add_row(r.version + mark, r.fingerprint[:16], f"{r.trained_from} to {r.trained_through}", levels, vocabulary, r.checkpoint)
    return table


def render(registered: Registered) -> Group:
    """The version, its levels, and per source and level what metrics.json holds."""
    levels = Table(title="levels", title_justify="left")
    for name in ("level", "codebook", "size"):
        levels.add_column(name)
    for level in registered.layout["levels"]:
        levels.add_row(str(level["level"]), "shared" if level["shared"] else "the source's own", str(level["codebook_size"]))
    return Group(render_list([registered], None), levels, *_metrics(registered))


def _metrics(registered: Registered) -> list[Table]:
    return []
