"""Texts to the token ids that a sentence-transformers model reads: prompt before, end token behind, cut, padded.

Where the last token is the vector (Qwen3-Embedding), padding is on the left and every text ends with an end token, cut ones
too: that of the tokenizer, or where it has none, that of the model's configuration.

R rows of a block, T its padded length in tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from u2qt_model.errors import ConfigError, EncoderError
from u2qt_model.text_config import TextModelConfig


class TextTokens:
    """One model's tokenizer under one configuration. ConfigError for a prompt that the model doesn't have or hold."""

    def __init__(self, model: Any, config: TextModelConfig) -> None:
        """`model` is a SentenceTransformer."""
        self._tokenizer = model.tokenizer
        _require_plain_text(model, config)
        self._last_token = any("lasttoken" in _modes(module) for module in model)
        self._prompt = _prompt(model, config)
        positions = getattr(model[0].config, "max_position_embeddings", None) or config.max_tokens + 1
        self.most = min(config.max_tokens, self._tokenizer.model_max_length, positions - 1) + 1  # T of the longest block
        self._end = self._missing_end(model) if self._last_token else None
        prompt_length = self._prompt_length()
        if prompt_length >= self.most - 1:
            raise ConfigError(f"text_model.prompt: found {prompt_length} tokens, expected fewer than the {self.most - 1} of prompt and text together")
        whole = all(getattr(module, "include_prompt", True) for module in model)
        self._pooled_from = None if whole or not self._prompt else prompt_length

    def of(self, texts: Sequence[bytes]) -> list[list[int]]:
        """Ids of each text, at most `most` - 1; none for a text without a token."""
        if not len(texts):
            return []
        decoded = [self._prompt + text.decode("utf-8", "replace") for text in texts]
        room = self.most - 1 - (self._end is not None)
        found = self._tokenizer(decoded, truncation=True, max_length=room, padding=False, return_attention_mask=False)["input_ids"]
        return [[*ids, self._end] if self._end is not None else list(ids) for ids in found]

    def features(self, tokens: Sequence[Sequence[int]], rows: int, length: int) -> dict[str, Any]:
        """What the model takes: `input_ids` and `attention_mask`, int64 (R, T); rows without a text are one token long."""
        pad = self._tokenizer.pad_token_id or 0
        ids = torch.full((rows, length), pad)
        mask = torch.zeros((rows, length), dtype=torch.int64)
        for row in range(rows):
            given = list(tokens[row]) if row < len(tokens) else [pad]
            place = slice(length - len(given), length) if self._pads_left else slice(0, len(given))
            ids[row, place], mask[row, place] = torch.tensor(given), 1
        features: dict[str, Tensor | int] = {"input_ids": ids, "attention_mask": mask}
        return features if self._pooled_from is None else {**features, "prompt_length": self._pooled_from}

    @property
    def _pads_left(self) -> bool:
        return self._last_token or self._tokenizer.padding_side == "left"

    def _missing_end(self, model: Any) -> int | None:
        """The end token to append; None where the tokenizer does it."""
        probe = self._tokenizer("a")["input_ids"]
        if probe and probe[-1] in self._tokenizer.all_special_ids:
            return None
        end = getattr(model[0].config, "eos_token_id", None)
        end = end[0] if isinstance(end, list) else end
        end = self._tokenizer.eos_token_id if end is None else end
        if end is None:
            raise EncoderError("text_model.pooling lasttoken: found no end token in the model's folder, expected eos_token_id; choose another pooling")
        return int(end)

    def _prompt_length(self) -> int:
        """Tokens before the text's first; an end token behind a lone prompt doesn't count."""
        ids = self._tokenizer(self._prompt)["input_ids"] if self._prompt else []
        return len(ids) - (1 if ids and ids[-1] in self._tokenizer.all_special_ids else 0)


def _modes(module: Any) -> tuple[str, ...]:
    mode = getattr(module, "pooling_mode", ())
    return (mode,) if isinstance(mode, str) else tuple(mode)


def _prompt(model: Any, config: TextModelConfig) -> str:
    """The configured text, the model's prompt of that name, or the one that the model puts first by itself."""
    name = config.prompt_name or ("" if config.prompt else model.default_prompt_name or "")
    if not name:
        return config.prompt
    known = {key: value for key, value in model.prompts.items() if value is not None}
    if name not in known:
        raise ConfigError(f"text_model.prompt_name: found {name!r}, expected one of {', '.join(sorted(known)) or 'none: the model has no prompts'}")
    return str(known[name])


def _require_plain_text(model: Any, config: TextModelConfig) -> None:
    """A model that renders texts by a chat template, or reads no text, would be used in another way than it was made for."""
    kinds = set(getattr(model[0], "modality_config", {}))
    if "text" not in kinds or (config.pooling == "model" and "message" in kinds):
        raise EncoderError(f"text_model.model: found a model that reads {', '.join(sorted(map(str, kinds)))}, expected one that reads plain text")
