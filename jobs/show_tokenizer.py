"""Prints registered tokenizers: what `u2qt tokenizer show` and `list` say."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from jobs.crosswalk_codes import Crosswalk
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
    for name in ("sources", "level", "codebook", "size"):
        levels.add_column(name)
    for sources, own in _alike(registered).items():
        for level, (shared, size) in enumerate(own, start=1):
            there = {name: str(codes) for name, codes in {"shared": shared, "the source's own": size - shared}.items() if codes}
            levels.add_row(sources if level == 1 else "", str(level), " + ".join(there), " + ".join(there.values()))
    return Group(render_list([registered], None), levels, *_metrics(registered))


def _alike(registered: Registered) -> dict[str, list[tuple[int, int]]]:
    """Sources with the same levels, comma-separated: (shared, all) codes of each level."""
    by_levels: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for source in registered.layout["sources"]:
        sizes = tuple((level["shared_size"], level["codebook_size"]) for level in source["levels"])
        by_levels.setdefault(sizes, []).append(source["name"])
    return {", ".join(names): list(sizes) for sizes, names in by_levels.items()}


def _metrics(registered: Registered) -> list[Table]:
    """Held-out error after each level, and how the training sample uses each codebook."""
    sources = registered.metrics.get("sources", {})
    error = f"{registered.metrics['held_out_error']:.4f}" if "held_out_error" in registered.metrics else "unknown"
    table = Table(title=f"quality (relative squared error on held-out users {error})", title_justify="left")
    for name in ("source", "slices", "level", "error", "usage", "dead", "perplexity"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for source, found in sources.items():
        for level, (left, use) in enumerate(zip(found["relative_squared_error"], found["levels"], strict=True), start=1):
            first = (source, f"{found['slices']:,}") if level == 1 else ("", "")
            table.add_row(*first, str(level), f"{left:.4f}", f"{use['usage']:.2f}", str(use["dead_codes"]), f"{use['perplexity']:.1f}")
    return [table]


def render_crosswalk(walk: Crosswalk) -> Table:
    """How many codes each level had, and how many slices keep their place if every old code becomes its most frequent new one."""
    title = f"{walk.old} to {walk.new}: {walk.rows:,} rows under both, {walk.pairs:,} pairs of codes in code_crosswalk"
    table = Table(title=title, title_justify="left")
    for name in ("source", "level", "slices", "old codes", "kept by the best new code"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for row in walk.levels:
        table.add_row(row.source, str(row.level), f"{row.slices:,}", str(row.old_codes), f"{row.kept:.1%}")
    return table
