"""Folders of sentence-transformers models: where they lie, whether they are safe to load, what they hold.

Only safetensors and text are read: a folder with pickled weights, code of its own or an adapter is refused. What a folder
is, is the sha256 of its files, not its path.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from u2qt_model.errors import EncoderError

PLACES = "U2QT_TEXT_MODELS"  # environment: a folder in which models lie by the last part of their name
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
CONTENT = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")  # what decides vectors
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")
MODULES = "modules.json"
ALLOWED = ("Transformer", "Pooling", "Normalize", "Dense", "LayerNorm")


def model_folder(model: str) -> Path:
    """The folder of a model's name: below $U2QT_TEXT_MODELS, else as a path, else the hub's copy on this machine.

    A name that isn't on this machine is fetched, unless HF_HUB_OFFLINE is set. EncoderError where it is nowhere.
    """
    if not model:
        raise EncoderError("text_model.model: found none, expected a folder or a name; give one with --text-model")
    places = os.environ.get(PLACES)
    if places and (Path(places) / Path(model).name).is_dir():
        return (Path(places) / Path(model).name).resolve()
    if Path(model).is_dir():
        return Path(model).resolve()
    if not HUB_NAME.fullmatch(model):
        raise EncoderError(
            f"text_model.model: found no folder {model}, expected a sentence-transformers model; put it there, or set {PLACES} to the folder that holds it"
        )
    return _from_hub(model)


def checked_modules(folder: Path, *, required: bool = True) -> list[str]:
    """The folders of its modules, as modules.json lists them. EncoderError for what is unsafe, or of another kind.

    Without `required` the file may be missing: a plain language model, all of it in the folder itself.
    """
    if required and not (folder / MODULES).is_file():
        raise EncoderError(f"{folder}: found no {MODULES}, expected a sentence-transformers model; or say how tokens are pooled by --set text_model.pooling=")
    listed = _json(folder / MODULES) if (folder / MODULES).is_file() else [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    if not isinstance(listed, list) or not listed or not all(isinstance(part, dict) for part in listed):
        raise EncoderError(f"{folder / MODULES}: found no list of modules, expected one")
    paths = [_module(folder, part) for part in listed]
    for path in {"", *paths}:
        _check_files(folder / path, needs_weights=path == paths[0])
    return paths


def content_sha256(folder: Path, paths: list[str]) -> str:
    """64 hex digits over names and bytes of its weights, JSON and texts: those of the folder itself and of its modules' folders."""
    files = {file for pattern in CONTENT for file in folder.glob(pattern)}
    files |= {file for path in paths if path for pattern in CONTENT for file in (folder / path).rglob(pattern)}
    digest = hashlib.sha256()
    for name, file in sorted((file.relative_to(folder).as_posix(), file) for file in files if file.is_file()):
        with file.open("rb") as opened:
            digest.update(f"{name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _module(folder: Path, part: dict[str, Any]) -> str:
    """Its folder, relative."""
    kind, path = str(part.get("type")), str(part.get("path"))
    if not kind.startswith("sentence_transformers.") or kind.rpartition(".")[2] not in ALLOWED:
        raise EncoderError(f"{folder / MODULES}: found module {kind}, expected one of sentence_transformers' {', '.join(ALLOWED)}; no other code is run")
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise EncoderError(f"{folder / MODULES}: found path {path}, expected one inside the folder")
    return path


def _check_files(folder: Path, *, needs_weights: bool) -> None:
    files = sorted(folder.iterdir()) if folder.is_dir() else []  # modules without a file of their own have no folder
    safe = any(file.suffix == ".safetensors" for file in files)
    pickled = [file.name for file in files if file.suffix in PICKLED]
    if not safe and (pickled or needs_weights):
        found = pickled[0] if pickled else "no weights"
        raise EncoderError(f"{folder}: found {found}, expected *.safetensors; pickled weights can run code: save the model again by save_pretrained")
    if any(file.name == "adapter_config.json" for file in files):
        raise EncoderError(f"{folder}: found adapter_config.json, expected a whole model; merge the adapter into its base and save that")


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise missing_extra(error) from error
    wanted = [*CONTENT, *(f"*/{pattern}" for pattern in CONTENT)]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True)).resolve()
    except LocalEntryNotFoundError:
        try:
            return Path(snapshot_download(name, allow_patterns=wanted)).resolve()
        except (OSError, ValueError) as error:  # offline, no such model, no access
            raise EncoderError(
                f"text_model.model: found {name} neither as a folder nor on this machine, and it can't be fetched ({type(error).__name__}); "
                f"give a folder, or set {PLACES} to the folder that holds it"
            ) from error


def missing_extra(error: ImportError) -> EncoderError:
    """What to install."""
    return EncoderError(f"text.kind sentence-transformers: found no {error.name}, expected the extra `text`; install it with pip install 'u2qt[text]'")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{path}: found no JSON ({error}), expected a list of modules") from error
