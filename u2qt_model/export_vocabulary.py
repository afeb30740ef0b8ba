"""Our tokens as a vocabulary that Hugging Face tokenizers and transformers load, alone or added to a language model's.

Alone, a token's id is that of `Vocabulary`; structural and special tokens follow. Added to a base, every token gets the next
free id there. Either way a name is one token, never split and never merged with its neighbours, and nothing is executed:
the folder holds JSON and safetensors. Needs the extra `lm`.
"""

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from u2qt_model.errors import ExportError
from u2qt_model.json_form import canonical_json
from u2qt_model.sequence_text import structural_tokens
from u2qt_model.token_embeddings import Statistics, base_statistics, fresh, started_rows
from u2qt_model.tokenizer import Tokenizer
from u2qt_model.vocabulary import Vocabulary

SPECIALS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
NAMES, EMBEDDINGS = "vocabulary.json", "new_embeddings.safetensors"
PIECE = "<[^<>]*>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What the folder holds."""

    folder: Path
    tokens: int  # ours: of codes and structural
    first_id: int  # theirs are consecutive
    width: int | None  # of new_embeddings.safetensors; None without it


def export_vocabulary(tokenizer: Tokenizer, out: str | Path, *, base: str | Path | None = None, width: int | None = None, seed: int = 0) -> Exported:
    """Writes the folder `out`, all of it or nothing.

    With `base`, a folder with a Hugging Face tokenizer and maybe its model's safetensors, or with `width`, it also holds rows
    to start embeddings from. ExportError for an `out` that isn't new or empty, for a base that holds one of our names, and
    for a `width` that isn't the base model's.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target}: found something there, expected a new or empty folder")
    names = all_names(tokenizer.vocabulary)
    statistics = _statistics(None if base is None else Path(base), width)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}"
    scratch.mkdir()  # by the user's umask, which a temporary folder would not follow
    try:
        ids = _write_alone(names, scratch) if base is None else _write_extended(names, Path(base), scratch)
        _write_names(names, ids, tokenizer.vocabulary, scratch)
        if statistics is not None:
            _write_rows(tokenizer, ids, statistics, seed, scratch)
        scratch.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Exported(folder=target, tokens=len(names), first_id=ids[0], width=len(statistics.mean) if statistics else None)


def all_names(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Our tokens: those of codes by id, then the structural ones. ExportError where two are the same."""
    names = (*vocabulary.names(), *structural_tokens(vocabulary))
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ExportError(f"vocabulary: found {twice[0]} as a code and as a source's tag, expected different ones; rename the source in the catalog")
    return names


def _statistics(base: Path | None, width: int | None) -> Statistics | None:
    found = base_statistics(base) if base is not None else None
    if found is None:
        if base is not None and width is None:
            raise ExportError(f"{base}: found no safetensors, expected the language model's weights; put them there, or give its width")
        return fresh(width) if width is not None else None
    if width not in (None, len(found.mean)):
        raise ExportError(f"width: found {width}, expected {len(found.mean)} as of the model in {base}; leave it out")
    return found


def _write_alone(names: Sequence[str], folder: Path) -> list[int]:
    """A word-level tokenizer of our tokens and SPECIALS."""
    tokenizers, transformers = _libraries()
    taken = [special for special in SPECIALS.values() if special in names]
    if taken:
        raise ExportError(f"vocabulary: found {taken[0]} as a source's tag, expected it for the special token; rename the source in the catalog")
    words = {name: index for index, name in enumerate((*names, *SPECIALS.values()))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=SPECIALS["unk_token"]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECE), behavior="isolated")
    made.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **SPECIALS).save_pretrained(folder)
    return [words[name] for name in names]


def _write_extended(names: Sequence[str], base: Path, folder: Path) -> list[int]:
    """The base's tokenizer with our tokens added."""
    tokenizers, _ = _libraries()
    extended = _load(base)
    known = extended.get_vocab()
    taken = [name for name in names if name in known]
    if taken:
        raise ExportError(
            f"{base}: found {taken[0]} in its vocabulary already ({len(taken)} of our tokens), expected none of ours; "
            f"give the folder of the language model as it was before an export, or rename the source in the catalog"
        )
    added = [tokenizers.AddedToken(name, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False) for name in names]
    extended.add_tokens(added)
    extended.save_pretrained(folder)
    return _checked_ids(names, folder, base)


def _checked_ids(names: Sequence[str], folder: Path, base: Path) -> list[int]:
    """The new ids, after the saved tokenizer has split a text of all names into exactly these."""
    saved = _load(folder)
    ids = [int(saved.convert_tokens_to_ids(name)) for name in names]
    found = saved("".join(names), add_special_tokens=False)["input_ids"]
    if found != ids or len(set(ids)) < len(ids):
        raise ExportError(
            f"{base}: its tokenizer splits or merges our tokens ({len(found)} ids for {len(ids)} names), expected one id per name; use another base"
        )
    return ids


def _load(folder: Path) -> Any:
    """A fast tokenizer, from that folder only."""
    _, transformers = _libraries()
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{folder}: found no tokenizer that can be loaded ({error}), expected a Hugging Face tokenizer's folder") from error
    if not loaded.is_fast:
        raise ExportError(f"{folder}: found a slow tokenizer ({type(loaded).__name__}), expected one with a tokenizer.json")
    return loaded


def _write_names(names: Sequence[str], ids: Sequence[int], vocabulary: Vocabulary, folder: Path) -> None:
    """vocabulary.json: name to id, source, level (from 1) and code; null where a token has none."""
    described = {}
    for index, (name, token_id) in enumerate(zip(names, ids, strict=True)):
        if index < vocabulary.size:
            token = vocabulary.token(index)
            described[name] = {"id": token_id, "source": token.source, "level": token.level, "code": token.code}
        else:
            tag = name.strip("</>")
            described[name] = {"id": token_id, "source": tag if tag in vocabulary.sources else None, "level": None, "code": None}
    (folder / NAMES).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def _write_rows(tokenizer: Tokenizer, ids: Sequence[int], statistics: Statistics, seed: int, folder: Path) -> None:
    """new_embeddings.safetensors: `embeddings` float32 (tokens, W) and `ids` int64 (tokens,), the rows that they are for."""
    vectors = tokenizer.token_vectors()
    padded = np.concatenate([vectors, np.zeros((len(ids) - len(vectors), vectors.shape[1]), np.float32)])
    rows = started_rows(padded, _codebooks(tokenizer.vocabulary, len(ids)), statistics, seed)
    about = canonical_json({"fingerprint": tokenizer.fingerprint, "seed": seed, "spread": statistics.spread})  # one key: several have no fixed order
    save_file({"embeddings": rows, "ids": np.array(ids, np.int64)}, folder / EMBEDDINGS, metadata={"about": about})


def _codebooks(vocabulary: Vocabulary, size: int) -> NDArray[np.int64]:
    """(size,) which codebook each token is of; the structural ones are of the last number."""
    tokens = map(vocabulary.token, range(vocabulary.size))
    numbers: dict[tuple[str | None, int], int] = {}
    found = [numbers.setdefault((token.source, token.level), len(numbers)) for token in tokens]
    return np.array(found + [len(numbers)] * (size - vocabulary.size), np.int64)


def _libraries() -> tuple[Any, Any]:
    """tokenizers and transformers, which take seconds to import."""
    try:
        import tokenizers
        import transformers
    except ImportError as error:
        raise ExportError(f"export: found no {error.name}, expected the extra `lm`; install it with pip install 'u2qt[lm]'") from error
    return tokenizers, transformers
