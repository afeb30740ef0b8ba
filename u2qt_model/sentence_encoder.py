"""Frozen sentence-transformers models as text encoders: prompts, end tokens, pooling, blocks of fixed shapes.

A text's vector is computed in a block whose shape its own length decides, next to whatever texts; on one machine its bits
are the same in any company (measured, not promised by torch). Needs the extra `text`, which takes seconds to import.

N texts, R rows of a block, T its padded length in tokens, E width.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from u2qt_model.errors import EncoderError
from u2qt_model.length_blocks import LengthBlock, length_blocks
from u2qt_model.model_folders import checked_modules, content_sha256, missing_extra, model_folder
from u2qt_model.text_config import TextModelConfig
from u2qt_model.text_tokens import TextTokens

Floats = NDArray[np.float32]

BLOCK_TOKENS = {"cpu": 512, "cuda": 16384}
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}


class SentenceEncoder:
    """A model's own vectors, as its folder says they are made. A text without a token gives zeros.

    Raises EncoderError for a missing extra, a folder that is missing or unsafe, and for a model of another width or
    content than the configuration says.
    """

    embeds_batches = True

    def __init__(self, config: TextModelConfig) -> None:
        folder = model_folder(config.model)
        self._device = _device(config.device)
        paths = checked_modules(folder, required=config.pooling == "model")
        sha256 = content_sha256(folder, paths)
        precision = PRECISION[self._device] if config.precision == "auto" else config.precision
        self._model = _loaded(str(folder), sha256, config.pooling, precision, self._device)
        _require_same(folder, config, int(self._model.get_embedding_dimension()), sha256)
        self.config = replace(
            config,
            model=str(folder) if Path(config.model).is_dir() else config.model,
            sha256=sha256,
            width=int(self._model.get_embedding_dimension()),
            block_tokens=config.block_tokens or BLOCK_TOKENS[self._device],
            precision=precision,
        )
        self._tokens = TextTokens(self._model, self.config)

    @property
    def identity(self) -> dict[str, str | int]:
        """What the model is and how it is used; where it lies and where it runs isn't in it."""
        names = ("sha256", "width", "prompt", "prompt_name", "pooling", "max_tokens", "block_tokens", "precision")
        return {"kind": "sentence-transformers", **{name: getattr(self.config, name) for name in names}}

    @property
    def width(self) -> int:
        """E."""
        return self.config.width

    @property
    def library(self) -> str:
        """The library, version and device at work, for the record."""
        import sentence_transformers

        return f"sentence-transformers {sentence_transformers.__version__} on {self._device}"

    def encode(self, texts: Sequence[bytes]) -> Floats:
        """float32 (N, E); see `TextEncoder`."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        tokens = self._tokens.of(texts)
        with torch.inference_mode():
            for block in length_blocks([len(text) for text in tokens], self.config.block_tokens, self._tokens.most):
                vectors[block.places] = self._run(tokens, block)
        return vectors

    def _run(self, tokens: list[list[int]], block: LengthBlock) -> Floats:
        """float32 (texts of the block, E)."""
        features = self._tokens.features([tokens[place] for place in block.places], block.rows, block.length)
        moved = {name: value.to(self._device) if isinstance(value, torch.Tensor) else value for name, value in features.items()}
        found = self._model(moved)["sentence_embedding"].float().cpu().numpy()
        return np.asarray(found[: len(block.places)], np.float32)


def _device(wanted: str) -> str:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EncoderError("text_model.device: found no GPU that torch can use, expected one for cuda; train with --set text_model.device=auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _require_same(folder: Path, config: TextModelConfig, width: int, sha256: str) -> None:
    way_out = "put the model it was trained with there, set U2QT_TEXT_MODELS to the folder that holds it, or train a new version"
    if config.width not in (0, width):
        raise EncoderError(f"text encoder {folder}: found width {width}, expected {config.width}; {way_out}")
    if config.sha256 not in ("", sha256):
        raise EncoderError(f"text encoder {folder}: found files of sha256 {sha256}, expected {config.sha256}; {way_out}")


@lru_cache(maxsize=2)  # a worker encodes with one tokenizer, or compares two; `sha256` keeps changed files apart
def _loaded(folder: str, sha256: str, pooling: str, precision: str, device: str) -> Any:
    """The SentenceTransformer, from that folder only, frozen."""
    settings = {"use_safetensors": True, "dtype": getattr(torch, precision)}
    with _quiet():
        try:
            from sentence_transformers import SentenceTransformer
            from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
        except ImportError as error:
            raise missing_extra(error) from error
        safely: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        try:
            if pooling == "model":
                made = SentenceTransformer(folder, device=device, model_kwargs=settings, **safely)
            else:
                first = Transformer.load(folder, subfolder=checked_modules(Path(folder), required=False)[0], model_kwargs=settings, **safely)
                made = SentenceTransformer(modules=[first, Pooling(first.get_embedding_dimension(), pooling_mode=pooling)], device=device)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]  # the lines after it advise to trust the code
            raise EncoderError(f"{folder}: can't be loaded ({reason}), expected a sentence-transformers model without code of its own") from error
    return made.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice on standard error: a worker's belongs to Spark."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import transformers
        except ImportError as error:
            raise missing_extra(error) from error
        logging: Any = transformers.utils.logging
        before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(before)
            if bars:
                logging.enable_progress_bar()
