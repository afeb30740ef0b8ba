"""Prints an evaluation, and writes it as JSON."""

import json
from pathlib import Path

from rich.console import Group
from rich.table import Table

from jobs.errors import BadInput
from jobs.evaluation_metrics import Interval
from jobs.evaluation_results import TOO_GOOD, Evaluation


def render(evaluation: Evaluation) -> Group:
    """Figures per feature set and model; what of the floats' lift is kept; differences; the shuffled controls."""
    sizes = ", ".join(f"{train:,}/{test:,}" for train, test in evaluation.splits)
    people = f"{evaluation.rows:,} labels of {evaluation.persons:,} users, {evaluation.positive:,} positive"
    figures = _table(f"{people}; train/test rows per split {sizes}\n95% intervals by person", ("features", "model", "AUC", "KS"))
    for f in evaluation.figures:
        figures.add_row(f.features, f.model, _shown(f.auc) + (" TOO GOOD" if f.too_good else ""), _shown(f.ks))
    if any(f.too_good for f in evaluation.figures):
        figures.caption = f"TOO GOOD: AUC of {TOO_GOOD} or more; look for a column that was made after the label"
    kept = _table("share of the floats' lift that is kept: (AUC - .5) / (AUC of floats - .5)", ("features", "model", "lift kept"))
    for k in evaluation.kept:
        kept.add_row(k.features, k.model, _shown(k.lift) if k.lift else "floats may predict nothing")
    gaps = _table("difference of AUC", ("features", "less", "model", "AUC"))
    for d in evaluation.differences:
        gaps.add_row(d.features, d.than, d.model, _shown(d.auc))
    controls = _table("shuffled labels, linear probe (expected: .5 in the interval)", ("features", "AUC", ""))
    for c in evaluation.controls:
        controls.add_row(c.features, _shown(c.auc), "passed" if c.passed else "OUTSIDE: 1 in 20 is chance")
    return Group(figures, kept, gaps, controls)


def write_json(evaluation: Evaluation, out: Path) -> None:
    """Raises `BadInput` when the file exists or can't be written."""
    try:
        with out.open("x", encoding="utf-8") as file:
            json.dump(evaluation.to_plain(), file, indent=2)
            file.write("\n")
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror}, expected a new file in a folder that exists; give another name") from None


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name in ("AUC", "KS", "lift kept") else "left")
    return table


def _shown(figure: Interval) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
