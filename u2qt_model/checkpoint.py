"""A tokenizer as a folder: model.safetensors, config.json, metrics.json, layout.json. Nothing in it is executed.

layout.json holds the fingerprint, the sha256 of the other files and one of itself, so that a changed byte anywhere is
refused. The fingerprint doesn't depend on the folder or on metrics.json.
"""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from u2qt_model.config import FeatureLayout, TokenizerConfig
from u2qt_model.errors import CheckpointError, ConfigError, EncoderError
from u2qt_model.json_form import to_plain
from u2qt_model.model import TokenizerModel
from u2qt_model.stage_one import slice_embedder
from u2qt_model.tokenizer import Tokenizer

WEIGHTS, CONFIG, METRICS, LAYOUT = "model.safetensors", "config.json", "metrics.json", "layout.json"
FORMAT = 1  # of the folder; another number is refused


def save(tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Writes the checkpoint, all of it or nothing; returns the folder.

    A folder that already holds the same fingerprint is left as it is. CheckpointError where it holds anything else.
    """
    target = Path(folder)
    try:
        if target.exists() and any(target.iterdir()):
            _require_same(tokenizer, target)
        else:
            _write_folder(target, _contents(tokenizer))
    except OSError as error:
        raise CheckpointError(f"{target}: can't be written ({error.strerror}), expected a new or empty folder") from error
    return target


def load(folder: str | Path, expect_layout: FeatureLayout | None = None) -> Tokenizer:
    """The tokenizer that `save` wrote, bit for bit.

    Raises CheckpointError, naming file, found and expected, for a missing, changed or foreign file, for a text model that is
    missing or another one, or, given `expect_layout`, for another catalog or feature layout.
    """
    root = Path(folder)
    described = _checked_layout(root)
    contents = {name: _checked_file(root / name, described["files"].get(name)) for name in (WEIGHTS, CONFIG, METRICS)}
    try:
        layout, config, identity = _parse_config(_json(root / CONFIG, contents[CONFIG]))
    except ConfigError as error:
        raise CheckpointError(f"{root / CONFIG}: {error}; it was written by another release: train the tokenizer again") from error
    _require_layout(root, layout, expect_layout)
    try:
        tokenizer = _build(root, layout, config, contents)
    except EncoderError as error:
        raise CheckpointError(f"{root / CONFIG}: {error}") from error
    if identity != tokenizer.text_encoder_identity:
        raise CheckpointError(f"{root / CONFIG}: found text encoder {identity}, expected {tokenizer.text_encoder_identity}")
    if tokenizer.describe() != {key: described[key] for key in described if key not in ("files", "format", "sha256")}:
        raise CheckpointError(f"{root / LAYOUT}: found fingerprint {described.get('fingerprint')} or levels that "
                              f"aren't the weights', expected {tokenizer.fingerprint}")  # fmt: skip
    return tokenizer


def _write_folder(target: Path, contents: dict[str, bytes]) -> None:
    """A sibling folder that takes the target's name once it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}"
    scratch.mkdir()  # by the user's umask, which a temporary folder would not follow
    try:
        for name, content in contents.items():
            _write(scratch / name, content)
        os.rename(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _contents(tokenizer: Tokenizer) -> dict[str, bytes]:
    """File name to content; layout.json last, for it names the others' checksums."""
    config = {
        "format": FORMAT,
        "layout": to_plain(tokenizer.layout),
        "tokenizer": to_plain(tokenizer.config),
        "text_encoder": tokenizer.text_encoder_identity,
    }
    weights = {name: tensor.contiguous() for name, tensor in tokenizer.weights.items()}
    files = {WEIGHTS: save_tensors(weights), CONFIG: _render(config), METRICS: _render(tokenizer.metrics)}
    layout = {
        **tokenizer.describe(),
        "format": FORMAT,
        "files": {name: _sha256(content) for name, content in files.items()},
    }
    return {**files, LAYOUT: _render({**layout, "sha256": _sha256(_render(layout))})}


def _checked_layout(root: Path) -> dict[str, Any]:
    path = root / LAYOUT
    content = _read(path)
    described = _json(path, content)
    rest = {key: value for key, value in described.items() if key != "sha256"}
    try:
        expected = _render({**rest, "sha256": _sha256(_render(rest))})
    except ValueError as error:
        raise CheckpointError(f"{path}: found NaN or infinity, expected finite numbers; it was changed") from error
    if content != expected:
        raise CheckpointError(f"{path}: found sha256 {_sha256(content)}, expected {_sha256(expected)} by its own checksum; it was changed")
    if described.get("format") != FORMAT or not isinstance(described.get("files"), dict):
        raise CheckpointError(f"{path}: found format {described.get('format')}, expected {FORMAT}")
    return described


def _checked_file(path: Path, expected: str | None) -> bytes:
    content = _read(path)
    if _sha256(content) != expected:
        raise CheckpointError(f"{path}: found sha256 {_sha256(content)}, expected {expected} by {LAYOUT}; it was changed or is foreign")
    return content


def _parse_config(parsed: dict[str, Any]) -> tuple[FeatureLayout, TokenizerConfig, object]:
    layout = FeatureLayout.from_json(json.dumps(parsed.get("layout")))
    return layout, TokenizerConfig.from_json(json.dumps(parsed.get("tokenizer"))), parsed.get("text_encoder")


def _require_layout(root: Path, found: FeatureLayout, expected: FeatureLayout | None) -> None:
    if expected is None or found == expected:
        return
    path = root / CONFIG
    if found.catalog != expected.catalog:
        raise CheckpointError(f"{path}: catalog: found {found.catalog!r}, expected {expected.catalog!r}; train a tokenizer for it")
    if found.source_names != expected.source_names:
        raise CheckpointError(f"{path}: sources: found {found.source_names}, expected {expected.source_names}")
    for ours, theirs in zip(found.sources, expected.sources, strict=True):
        if ours != theirs:
            raise CheckpointError(f"{path}: source {ours.name}: found {to_plain(ours)}, expected {to_plain(theirs)}")
    raise CheckpointError(f"{path}: hash_buckets: found {found.hash_buckets}, expected {expected.hash_buckets}")


def _build(root: Path, layout: FeatureLayout, config: TokenizerConfig, contents: dict[str, bytes]) -> Tokenizer:
    embedder = slice_embedder(layout, config)
    model = TokenizerModel(layout, config, embedder)
    try:
        tensors = load_tensors(contents[WEIGHTS])
    except SafetensorError as error:
        raise CheckpointError(f"{root / WEIGHTS}: found no safetensors ({error}), expected the tokenizer's weights") from error
    found, expected = _shapes(tensors), _shapes(model.state_dict())
    if found != expected:
        name = min(set(found.items()) ^ set(expected.items()))[0]
        raise CheckpointError(f"{root / WEIGHTS}: {name}: found {found.get(name)}, expected {expected.get(name)}")
    model.load_state_dict(tensors)
    return Tokenizer(layout, config, model, embedder, _json(root / METRICS, contents[METRICS]))


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: f"{tensor.dtype} {tuple(tensor.shape)}" for name, tensor in tensors.items()}


def _require_same(tokenizer: Tokenizer, target: Path) -> None:
    found = load(target).fingerprint
    if found != tokenizer.fingerprint:
        raise CheckpointError(f"{target}: found fingerprint {found}, expected {tokenizer.fingerprint}; save it under another version")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: found nothing readable ({error.strerror}), expected a checkpoint's file") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: found no JSON ({error}), expected an object") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: found {type(parsed).__name__}, expected an object")
    return parsed


def _render(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
