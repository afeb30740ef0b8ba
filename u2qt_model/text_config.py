"""How slice texts become vectors: hashed words, or a sentence-transformers model. Knows neither tensors nor files."""

import re
from dataclasses import dataclass

from u2qt_model.require import require, require_one_of

POOLINGS = ("model", "mean", "cls", "max", "lasttoken")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderConfig:
    """The frozen text encoder; sizes are those of "hashing"."""

    kind: str = "hashing"  # "hashing" (of words) | "sentence-transformers" (as `text_model` says; extra `text`)
    width: int = 1024  # E: hash buckets
    max_ngram: int = 2  # longest word n-gram

    def __post_init__(self) -> None:
        require_one_of("text.kind", self.kind, ("hashing", "sentence-transformers"))
        require(8 <= self.width <= 2**16, "text.width", self.width, "8 to 65536")
        require(1 <= self.max_ngram <= 4, "text.max_ngram", self.max_ngram, "1 to 4")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextModelConfig:
    """A frozen sentence-transformers model. What says "found" is filled in by training, and a checkpoint insists on it.

    `model` is where it was found, not what it is: it takes no part in the fingerprint.
    """

    model: str = ""  # a folder, or its name on a model hub: ORGANISATION/NAME
    sha256: str = ""  # of its files, 64 hex digits; empty is found
    width: int = 0  # E; 0 is found
    prompt: str = ""  # put before every text, to the letter; an instruction
    prompt_name: str = ""  # the model's own prompt of that name instead
    pooling: str = "model"  # tokens to one vector: "model" (as its modules.json says) | "mean" | "cls" | "max" | "lasttoken"
    max_tokens: int = 512  # longer texts are cut, prompt and end token included; never more than the model takes
    block_tokens: int = 0  # tokens per run of the model; 0 is found: 512 on a CPU, 16384 on a GPU
    precision: str = "auto"  # "float32" | "bfloat16" | "auto" (found: bfloat16 on a GPU, else float32)
    device: str = "auto"  # "cpu" | "cuda" | "auto" (a GPU where there is one, on each machine)

    def __post_init__(self) -> None:
        require(not self.sha256 or SHA256.fullmatch(self.sha256) is not None, "text_model.sha256", self.sha256, "64 hex digits")
        require(0 <= self.width <= 2**16, "text_model.width", self.width, "0 to 65536")
        require(not (self.prompt and self.prompt_name), "text_model.prompt_name", self.prompt_name, "none beside text_model.prompt")
        require_one_of("text_model.pooling", self.pooling, POOLINGS)
        require(8 <= self.max_tokens <= 2**15, "text_model.max_tokens", self.max_tokens, "8 to 32768")
        require(0 <= self.block_tokens <= 2**20, "text_model.block_tokens", self.block_tokens, "0 to 1048576")
        require_one_of("text_model.precision", self.precision, ("auto", "float32", "bfloat16"))
        require_one_of("text_model.device", self.device, ("auto", "cpu", "cuda"))
