"""Tokenizers to compare on one lakehouse, and `u2qt evaluate` of them as one table per label."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lakes import run_together, where

START_ALONE = ("--set", "training.epochs=0")  # where epochs after the joint rounds take long and win nothing
VERSIONS: dict[str, tuple[str, ...]] = {
    "depth": (),
    "fine": ("--set", "quantizer.codebook_size=64", "--set", "quantizer.shared_levels=4", "--set", "quantizer.own_levels=4"),  # 48 bits instead of 32
    "width-beam": ("--layout", "width", "--set", "quantizer.beam=4", *START_ALONE),
    "qformer": ("--stage1", "qformer", *START_ALONE),
    "rq-kmeans": ("--quantizer", "rq_kmeans"),
}


def seeded(versions: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> dict[str, Sequence[str]]:
    """Each version trained with each seed; the first seed's is called as before."""
    return {version if seed == 0 else f"{version}-{seed}": (*options, "--seed", str(seed)) for seed in seeds for version, options in versions.items()}


def published(folder: Path, versions: Mapping[str, Sequence[str]], *, trained: tuple[str, str], days: tuple[str, str]) -> list[list[str]]:
    """The commands that train the versions which aren't there yet, each with its options of `u2qt train`, and publish the days with them."""
    commands = []
    for version, options in versions.items():
        if _ready(folder, version).exists():
            continue
        named = ("--tokenizer-version", version, *where(folder))
        commands.append(["train", "--from", trained[0], "--to", trained[1], *options, *named])
        commands += [[stage, "--from", days[0], "--to", days[1], *named] for stage in ("encode", "audit", "publish")]
    return commands


def evaluated(folder: Path, versions: Sequence[str], questions: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The commands that evaluate the versions; a question is a name and options of `u2qt evaluate`."""
    asked = [part for version in versions for part in ("--tokenizer-version", version)]
    return [["evaluate", *options, *asked, "--out", str(_figures(folder, name)), *where(folder)] for name, options in questions.items()]


def carried_out(folder: Path, versions: Sequence[str], questions: Mapping[str, Sequence[str]], commands: Sequence[Sequence[str]]) -> None:
    """Runs the commands in one process; prints what the trainings say, and a table per question."""
    for name in questions:
        _figures(folder, name).unlink(missing_ok=True)
    run_together(*commands)
    for version in versions:
        _ready(folder, version).touch()
        metrics = json.loads((folder / "lakehouse" / "checkpoints" / version / "metrics.json").read_text(encoding="utf-8"))
        print(f"{version}: held-out error {metrics['held_out_error']:.4f}, kept epoch {metrics['kept_epoch']}, seconds {metrics['seconds']}")
        if "qformer" in metrics:
            print(f"  its Q-Former: {json.dumps(metrics['qformer'])}")
    for name, options in questions.items():
        print(f"\n{name}: u2qt evaluate {' '.join(options)}")
        print("\n".join(lines(json.loads(_figures(folder, name).read_text(encoding="utf-8")))), flush=True)


def _ready(folder: Path, version: str) -> Path:
    return folder / f"published-{version}"


def _figures(folder: Path, name: str) -> Path:
    return folder / f"figures-{name}.json"


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
