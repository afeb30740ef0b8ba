"""Tokenizers to compare on one lakehouse, and `u2qt evaluate` of them as one table per label."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.lakes import run, run_together, where

START_ALONE = ("--set", "training.epochs=0")  # where epochs after the joint rounds take long and win nothing
VERSIONS: dict[str, tuple[str, ...]] = {
    "depth": (),
    "width-beam": ("--layout", "width", "--set", "quantizer.beam=4", *START_ALONE),
    "qformer": ("--stage1", "qformer", *START_ALONE),
    "rq-kmeans": ("--quantizer", "rq_kmeans"),
}


def trained_and_published(folder: Path, version: str, *options: str, trained: tuple[str, str], published: tuple[str, str]) -> None:
    """Trains the version where it isn't there yet, publishes the days with it, and prints what its training says."""
    ready = folder / f"published-{version}"
    if not ready.exists():
        named = ("--tokenizer-version", version, *where(folder))
        stages = [(stage, "--from", published[0], "--to", published[1], *named) for stage in ("encode", "audit", "publish")]
        run_together(("train", "--from", trained[0], "--to", trained[1], *options, *named), *stages)
        ready.touch()
    metrics = json.loads((folder / "lakehouse" / "checkpoints" / version / "metrics.json").read_text(encoding="utf-8"))
    print(f"{version}: held-out error {metrics['held_out_error']:.4f}, kept epoch {metrics['kept_epoch']}, seconds {metrics['seconds']}", flush=True)
    if "qformer" in metrics:
        print(f"  its Q-Former: {json.dumps(metrics['qformer'])}", flush=True)


def evaluated(folder: Path, labels: Path, versions: Sequence[str], *options: str) -> None:
    """Prints one `u2qt evaluate` as a table."""
    asked = [part for version in versions for part in ("--tokenizer-version", version)]
    with TemporaryDirectory() as work:
        out = Path(work) / "figures.json"
        run("evaluate", "--labels", str(labels), *options, *asked, "--out", str(out), *where(folder))
        found = json.loads(out.read_text(encoding="utf-8"))
    print(f"\n$ u2qt evaluate --labels {labels.name} {' '.join((*options, *asked))}")
    print("\n".join(lines(found)), flush=True)


def lines(found: dict[str, Any]) -> list[str]:
    """Per model and feature set AUC, KS and the share of the floats' lift; equal floats once; the shuffled controls."""
    kept = {(k["features"], k["model"]): k["lift"] for k in found["kept"]}
    table = [f"{found['rows']:,} labels of {found['persons']:,} users, {found['positive']:,} positive, {len(found['splits'])} splits"]
    table.append(f"{'model':10}{'features':20}{'AUC':>20}{'KS':>20}{'lift kept':>20}")
    seen: set[tuple[Any, ...]] = set()
    for f in found["figures"]:
        key = (f["features"].split(" ")[0], f["model"], f["auc"]["value"], f["ks"]["value"])
        if key[0] == "floats" and key in seen:
            continue
        seen.add(key)
        lift = kept.get((f["features"], f["model"]))
        table.append(f"{f['model']:10}{f['features']:20}{shown(f['auc']):>20}{shown(f['ks']):>20}{shown(lift) if lift else '':>20}")
    outside = [f"{c['features']} {shown(c['auc'])}" for c in found["controls"] if not c["passed"]]
    table.append(f"shuffled labels: .5 in the interval of {len(found['controls']) - len(outside)} of {len(found['controls'])} feature sets")
    table.extend(f"  outside: {name}" for name in outside)
    return table


def shown(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]".replace("0.", ".")
