"""Prints two tokenizers side by side: what `u2qt tokenizer compare` says."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from jobs.compare_tokenizers import Comparison


def render(comparison: Comparison) -> Group:
    """The agreement per source and level, and each tokenizer's own figures, A above B. It fits 80 columns."""
    a, b = comparison.a, comparison.b
    title = f"A: {a.version} ({a.fingerprint[:16]})\nB: {b.version} ({b.fingerprint[:16]})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("source", "level", "agree", "slices", "used", "perplexity", "margin\n1%", "margin\n50%", "error"):
        table.add_column(name, justify="left" if name == "source" else "right", no_wrap=True)
    last = None
    for row in comparison.levels:
        first = (row.source, _pair(row, "slices", ",d"), _pair(row, "error", ".3f")) if row.source != last else ("", "", "")
        last = row.source
        figures = (_pair(row, name, form) for name, form in (("used", "d"), ("perplexity", ".1f"), ("margin_p01", ".2g"), ("margin_p50", ".2g")))
        table.add_row(first[0], str(row.level), _shown(row.agreement, ".2f"), first[1], *figures, first[2])
    return Group(table, Text(_said(comparison)))


def _said(comparison: Comparison) -> str:
    seen = "after both trainings" if comparison.held_out else "NOT held out: a tokenizer was trained on some of these days or later"
    sample = f"{comparison.sampled:,} of {comparison.rows:,} rows of user_features version {comparison.table_version}"
    return (
        f"{sample}, {comparison.days}, {seen}.\nagree: normalised mutual information of the codes, 1 is the same clusters under any numbering.\n"
        "error: relative to what each one's own projection keeps; comparable where both have one stage 1 and as many dimensions."
    )


def _pair(row: object, name: str, form: str) -> str:
    return f"{_shown(getattr(row, f'{name}_a'), form)}\n{_shown(getattr(row, f'{name}_b'), form)}"


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
