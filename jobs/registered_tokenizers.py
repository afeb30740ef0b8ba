"""Finds registered tokenizers, loads their checkpoints, refusing what is not what was registered, and ships them to executors."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pyspark import SparkFiles
from pyspark.sql import Row
from pyspark.sql import functions as F

import u2qt_model
from jobs.context import Context
from jobs.encoding import FrozenTokenizer
from jobs.errors import BadInput
from schemas import keys
from schemas.catalog import Catalog
from schemas.tokenizers import TOKENIZERS
from u2qt_model import FeatureLayout, Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A row of `tokenizers`."""

    version: str
    fingerprint: str
    checkpoint: str
    trained_from: date
    trained_through: date
    layout: dict[str, Any]
    metrics: dict[str, Any]
    manifest: dict[str, str] | None  # sha256 of the checkpoint's files by name; None: registered by an earlier release


def feature_layout(catalog: Catalog) -> FeatureLayout:
    """The catalog's features as the model package knows them."""
    return FeatureLayout.from_json(json.dumps(catalog.feature_layout()))


def all_registered(context: Context) -> list[Registered]:
    """Every registered tokenizer, by version; a lakehouse has tens of them."""
    return [_registered(context, row) for row in context.lake.read_declared(TOKENIZERS).orderBy("tokenizer_version").collect()]


def checkpoint_folder(context: Context, given: Path | None) -> Path:
    """Where checkpoints are kept: the folder given, else one in a local lakehouse."""
    if given is None and not context.lake.is_local:
        raise BadInput(f"--checkpoints: found none, expected a folder, because the lakehouse {context.lake.root} is not on this machine")
    folder = (given or Path(context.lake.root) / "checkpoints").resolve()  # registered: later runs start elsewhere
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--checkpoints {folder}: found a file, expected a folder")
    return folder


def promoted_version(context: Context) -> str | None:
    row = context.lake.read("promotions").agg(F.max_by("tokenizer_version", "seq").alias("version")).first()
    return row["version"] if row else None


def find_registered(context: Context, version: str | None) -> Registered:
    """The named version, or the promoted one. Raises `BadInput` with the known versions."""
    wanted = keys.version(version) if version is not None else promoted_version(context)
    known = {r.version: r for r in all_registered(context)}
    names = ", ".join(known) or "none"
    if wanted is None:
        raise BadInput(f"tokenizer: none is promoted, registered are: {names}; run `u2qt tokenizer promote V`, or give --tokenizer-version")
    if wanted not in known:
        raise BadInput(f"tokenizer {wanted}: not registered, registered are: {names}; train it with `u2qt train --tokenizer-version {wanted}`")
    return _of_this_release(known[wanted])


def _of_this_release(registered: Registered) -> Registered:
    if any("levels" not in source for source in registered.layout["sources"]):
        raise BadInput(
            f"tokenizer {registered.version}: its layout names no levels per source, expected them; an earlier release registered it: "
            "train it again under another version, and promote that"
        )
    return registered


def load_registered(registered: Registered, catalog: Catalog) -> Tokenizer:
    """The frozen tokenizer, verified: same files and fingerprint as registered, same features as the catalog's."""
    _require_manifest(registered)
    tokenizer = u2qt_model.load(registered.checkpoint, expect_layout=feature_layout(catalog))
    if tokenizer.fingerprint != registered.fingerprint:
        raise BadInput(
            f"tokenizer {registered.version}: checkpoint {registered.checkpoint} has fingerprint {tokenizer.fingerprint[:16]}, expected "
            f"{registered.fingerprint[:16]} as registered; restore the folder from its backup"
        )
    return tokenizer


def _require_manifest(registered: Registered) -> None:
    """A folder whose sums were made anew agrees with itself; the lakehouse remembers what was registered."""
    for name, expected in (registered.manifest or {}).items():
        path = Path(registered.checkpoint) / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        if found != expected:
            raise BadInput(
                f"tokenizer {registered.version}: {path} {f'has sha256 {found[:16]}' if found else 'is not there'}, expected {expected[:16]} as registered; "
                "restore the folder from its backup"
            )


def _found_again(context: Context, version: str, checkpoint: str) -> str:
    """Where it was registered; in a lakehouse that was copied to another place, which took its checkpoints along, there."""
    here = Path(context.lake.root) / "checkpoints" / version
    return str(here) if context.lake.is_local and here.is_dir() and not Path(checkpoint).is_dir() else checkpoint


def load_named(context: Context, name: str) -> Tokenizer:
    """The tokenizer of a checkpoint's folder, or of a registered version, which is verified."""
    if Path(name).is_dir():
        return u2qt_model.load(name)
    return load_registered(find_registered(context, name), context.catalog)


def ship(context: Context, registered: Registered, sources: tuple[str, ...]) -> FrozenTokenizer:
    """Sends the checkpoint to every executor; workers verify its fingerprint when they load it.

    As an archive, which Spark unpacks there: on a cluster it refuses to send a folder. Only the driver reads the original.
    """
    shipped = Path(SparkFiles.getRootDirectory()) / "shipped"  # goes with the session
    archive = shipped / f"tokenizer-{registered.fingerprint}.zip"
    if not archive.exists():
        shipped.mkdir(exist_ok=True)
        shutil.make_archive(str(archive.with_suffix("")), "zip", root_dir=registered.checkpoint)
        context.spark.sparkContext.addArchive(archive.as_uri())
    return FrozenTokenizer(folder=archive.name, fingerprint=registered.fingerprint, sources=sources)


def _registered(context: Context, row: Row) -> Registered:
    return Registered(
        version=row.tokenizer_version,
        fingerprint=row.fingerprint,
        checkpoint=_found_again(context, row.tokenizer_version, row.checkpoint),
        trained_from=row.trained_from,
        trained_through=row.trained_through,
        layout=json.loads(row.layout),
        metrics=json.loads(row.metrics),
        manifest=json.loads(row.manifest) if row.manifest else None,
    )
