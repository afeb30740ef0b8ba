"""What a tokenizer is made for (FeatureLayout) and how it is made (TokenizerConfig). Knows neither tensors nor files.

A run is a named function that returns a full configuration: `tiny`, `demo`, `base`. Both parts go into the checkpoint
and its fingerprint.
"""

import json
import math
import re
from dataclasses import dataclass, field, replace

from u2qt_model.errors import ConfigError
from u2qt_model.json_form import canonical_json, from_plain, to_plain
from u2qt_model.require import require, require_one_of
from u2qt_model.text_config import TextEncoderConfig, TextModelConfig

SOURCE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
MAX_CODEBOOK_SIZE = 2**15  # codes travel as int16
RESERVED_NAMES = ("shared",)  # token names of shared levels start with it


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceLayout:
    """The shape of one source's columns in `user_features`."""

    name: str  # prefix of its columns
    kind: str  # "events" | "profile"
    num_ids: int  # F: hashed categorical fields per event, or of the profile
    num_values: int  # V: numeric fields per event, or of the profile
    max_events: int = 1  # E: slots per user and day; 1 for a profile
    timed: bool = False  # an event's last two values are the share of its day and log(1 + seconds) since the one before
    definition: str = ""  # hash of what the columns mean: names, types, template, lengths

    def __post_init__(self) -> None:
        require(SOURCE_NAME.fullmatch(self.name) is not None, "source.name", self.name, "[a-z][a-z0-9_]{0,62}")
        require(
            self.name not in RESERVED_NAMES,
            "source.name",
            self.name,
            f"none of {RESERVED_NAMES}, which token names use",
        )
        require(self.kind in ("events", "profile"), f"{self.name}.kind", self.kind, "events or profile")
        require(self.num_ids >= 0, f"{self.name}.num_ids", self.num_ids, "0 or more")
        require(self.num_values >= 0, f"{self.name}.num_values", self.num_values, "0 or more")
        require(self.max_events >= 1, f"{self.name}.max_events", self.max_events, "1 or more")
        require(self.kind == "events" or self.max_events == 1, f"{self.name}.max_events", self.max_events, "1 for a profile")
        timeable = not self.timed or (self.kind == "events" and self.num_values >= 2)
        require(timeable, f"{self.name}.timed", self.timed, "true for events with 2 values or more only")
        has_fields = self.kind == "events" or self.num_ids + self.num_values > 0
        require(has_fields, f"{self.name}.num_ids + num_values", 0, "1 or more for a profile")

    def columns(self, *, events: bool) -> tuple[str, ...]:
        """Its columns; for an event source without `events` only text and count."""
        if self.kind == "profile":
            return (f"{self.name}_count", f"{self.name}_values", f"{self.name}_ids")
        arrays = (f"{self.name}_event_ids", f"{self.name}_event_values", f"{self.name}_mask") if events else ()
        return (f"{self.name}_text", f"{self.name}_count", *arrays)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureLayout:
    """The part of `user_features` that a tokenizer depends on; sources in catalog order, the order of axis S."""

    catalog: str  # name of the catalog the features were made from
    hash_buckets: int  # ids lie in [0, hash_buckets]; 0 is padding
    sources: tuple[SourceLayout, ...]

    def __post_init__(self) -> None:
        names = self.source_names
        require(len(names) > 0, "sources", 0, "at least one")
        require(len(set(names)) == len(names), "sources", names, "different names")
        require(self.hash_buckets >= 1, "hash_buckets", self.hash_buckets, "1 or more")

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names in catalog order."""
        return tuple(source.name for source in self.sources)

    def columns(self, *, events: bool = False) -> tuple[str, ...]:
        """The feature columns a tokenizer reads, catalog order; `events` adds the fixed-length event arrays."""
        return tuple(column for source in self.sources for column in source.columns(events=events))

    def to_json(self) -> str:
        """Canonical JSON; the inverse of `from_json`."""
        return canonical_json(to_plain(self))

    @classmethod
    def from_json(cls, text: str) -> "FeatureLayout":
        """The layout that `to_json` wrote; ConfigError names what is unknown, missing or mistyped."""
        return from_plain(cls, _parse(text, "layout"), "layout")


@dataclass(frozen=True, kw_only=True, slots=True)
class QFormerConfig:
    """The causal Q-Former over event arrays and its training; at work where `stage1` is "qformer"."""

    queries: int = 4  # q per source; a slice's embedding is q x width wide
    width: int = 64  # E of one query
    heads: int = 4  # of every attention
    blocks: int = 4  # the first, third, ... attend to events
    bag_buckets: int = 1024  # H: hashed fields are folded into these to be reconstructed
    epochs: int = 10  # passes after the one for the values' moments
    batch_users: int = 256  # users per step; those of a step are each other's negatives
    learning_rate: float = 2e-3  # at the end of the warm-up; then it falls to 0 in a line
    warm_up: float = 0.1  # share of all steps
    weight_decay: float = 0.01  # of matrices; not of id embeddings, queries, norms and biases
    bag_weight: float = 1.0
    value_weight: float = 1.0
    contrast_weight: float = 0.1
    temperature: float = 0.1  # of the contrast's cosines

    def __post_init__(self) -> None:
        require(1 <= self.queries <= 64, "qformer.queries", self.queries, "1 to 64")
        require(self.width >= 16 and self.width % 16 == 0, "qformer.width", self.width, "a multiple of 16")
        require(self.heads >= 1 and self.width % self.heads == 0, "qformer.heads", self.heads, f"a divisor of width {self.width}")
        require(self.blocks >= 1, "qformer.blocks", self.blocks, "1 or more")
        require(self.bag_buckets >= 2, "qformer.bag_buckets", self.bag_buckets, "2 or more")
        require(self.epochs >= 0, "qformer.epochs", self.epochs, "0 or more")
        require(self.batch_users >= 1, "qformer.batch_users", self.batch_users, "1 or more")
        require(0 < self.learning_rate < 1, "qformer.learning_rate", self.learning_rate, "between 0 and 1")
        require(0 <= self.warm_up < 1, "qformer.warm_up", self.warm_up, "0 up to 1")
        require(0 <= self.weight_decay < 1, "qformer.weight_decay", self.weight_decay, "0 up to 1")
        for name, weight in (("bag", self.bag_weight), ("value", self.value_weight), ("contrast", self.contrast_weight)):
            require(0 <= weight < math.inf, f"qformer.{name}_weight", weight, "0 or more and finite")
        require(0 < self.temperature < math.inf, "qformer.temperature", self.temperature, "more than 0 and finite")


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceEncoderConfig:
    """From a source's embedding to a code-sized vector."""

    code_dim: int = 64  # D
    hidden: int = 128  # width of the near-identity networks around the quantizer; 0 is none
    id_buckets: int = 256  # width of a profile's feature-hashed ids
    clip: float = 8.0  # standardised values are cut at plus and minus this many deviations

    def __post_init__(self) -> None:
        require(self.code_dim >= 1, "encoder.code_dim", self.code_dim, "1 or more")
        require(self.hidden >= 0, "encoder.hidden", self.hidden, "0 or more")
        require(self.id_buckets >= 1, "encoder.id_buckets", self.id_buckets, "1 or more")
        require(0 < self.clip < math.inf, "encoder.clip", self.clip, "more than 0 and finite")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerConfig:
    """Residual levels of shared and own codebooks, and how they are found. A switch is on by default where it lowered the held-out error
    (docs/benchmarks.md, ablation).
    """

    kind: str = "residual"  # "residual" (networks and refinement as configured) | "rq_kmeans" (the start alone, greedy)
    layout: str = "depth"  # "depth": own levels below the shared ones | "width": on every level an own block beside the shared one
    shared_levels: int = 2  # Lc; for rq_kmeans L means pooled, 0 means per source
    own_levels: int = 2  # in width as many as shared_levels: they are the same levels
    codebook_size: int = 256  # K, codes of a block
    own_size: int = 0  # codes of an own block where they differ; 0 is codebook_size
    profile_levels: int = 0  # levels of a residual quantizer of the profile's own, beside that of the event sources; 0 is none
    profile_size: int = 0  # codes of each of its levels where they differ; 0 is codebook_size
    beam: int = 1  # candidates kept from level to level when codes are given out; 1 is greedy
    start: str = "kmeans++"  # first codewords of a block: "kmeans++" (drawn by squared distance) | "random" (any slices)
    kmeans_iterations: int = 15  # Lloyd steps of the start
    joint_rounds: int = 20  # after the start: codes by beam, then all levels' codewords at once by least squares; 0 is off
    codebooks: str = "joint"  # in epochs: "joint" (least squares at each epoch's end) | "ema" (moving averages) | "gradient"
    ema_decay: float = 0.99  # per training step
    commitment: float = 0.25  # beta
    gradient: str = "rotation"  # past the quantizer: "rotation" (2410.06424) | "straight_through"
    balance: float = 0.0  # temperature of Sinkhorn-balanced codes in training steps, per block; 0 is off
    warm_up_epochs: int = 0  # epochs over which the levels join one after the other
    restart_dead: bool = True  # move codes without a member onto slices

    def __post_init__(self) -> None:
        require_one_of("quantizer.kind", self.kind, ("residual", "rq_kmeans"))
        require_one_of("quantizer.layout", self.layout, ("depth", "width"))
        require_one_of("quantizer.start", self.start, ("kmeans++", "random"))
        require_one_of("quantizer.codebooks", self.codebooks, ("joint", "ema", "gradient"))
        require_one_of("quantizer.gradient", self.gradient, ("straight_through", "rotation"))
        require(self.shared_levels >= 0, "quantizer.shared_levels", self.shared_levels, "0 or more")
        require(self.own_levels >= 0, "quantizer.own_levels", self.own_levels, "0 or more")
        beside = self.layout == "depth" or self.shared_levels == self.own_levels
        require(beside, "quantizer.own_levels", self.own_levels, f"{self.shared_levels}, as shared_levels, in layout width")
        require(1 <= self.num_levels <= 64, "quantizer.shared_levels + own_levels", self.num_levels, "1 to 64")
        require(2 <= self.codebook_size <= MAX_CODEBOOK_SIZE, "quantizer.codebook_size", self.codebook_size, "2 to 32768")
        require(0 <= self.own_size <= MAX_CODEBOOK_SIZE, "quantizer.own_size", self.own_size, "0 to 32768")
        largest = max(map(self.level_size, range(self.num_levels)))
        require(largest <= MAX_CODEBOOK_SIZE, "quantizer.codebook_size + own_size", largest, "at most 32768 on a level")
        require(0 <= self.profile_levels <= 64, "quantizer.profile_levels", self.profile_levels, "0 to 64")
        require(0 <= self.profile_size <= MAX_CODEBOOK_SIZE, "quantizer.profile_size", self.profile_size, "0 to 32768")
        require(1 <= self.beam <= 64, "quantizer.beam", self.beam, "1 to 64")
        require(self.kmeans_iterations >= 1, "quantizer.kmeans_iterations", self.kmeans_iterations, "1 or more")
        require(self.joint_rounds >= 0, "quantizer.joint_rounds", self.joint_rounds, "0 or more")
        require(0 < self.ema_decay < 1, "quantizer.ema_decay", self.ema_decay, "between 0 and 1")
        require(0 <= self.commitment < math.inf, "quantizer.commitment", self.commitment, "0 or more and finite")
        require(0 <= self.balance < math.inf, "quantizer.balance", self.balance, "0 or more and finite")
        require(self.warm_up_epochs >= 0, "quantizer.warm_up_epochs", self.warm_up_epochs, "0 or more")

    @property
    def num_levels(self) -> int:
        """L."""
        return self.shared_levels if self.layout == "width" else self.shared_levels + self.own_levels

    def of_profile(self) -> "QuantizerConfig | None":
        """The configuration of the profile's own quantizer; None where it shares that of the event sources."""
        if not self.profile_levels:
            return None
        size = self.profile_size or self.codebook_size
        own = {"layout": "depth", "shared_levels": 0, "own_levels": self.profile_levels, "codebook_size": size, "own_size": 0}
        return replace(self, **own, profile_levels=0, profile_size=0)  # type: ignore[arg-type]

    def largest_block(self, kind: str) -> int:
        """Codes of the largest codebook that a source of that kind (events, profile) chooses from."""
        if kind == "profile" and self.profile_levels:
            return self.profile_size or self.codebook_size
        return max(self.codebook_size, self.own_size)

    def shared_size(self, level: int) -> int:
        """Codes of the shared block of a level (from 0), which come first; 0 where the level has none."""
        return self.codebook_size if level < self.shared_levels else 0

    def own_block_size(self, level: int) -> int:
        """Codes of a source's own block on a level (from 0); 0 where the level has none."""
        return (self.own_size or self.codebook_size) if level >= self.first_own_level else 0

    def level_size(self, level: int) -> int:
        """Codes that a slice can reach on a level (from 0)."""
        return self.shared_size(level) + self.own_block_size(level)

    @property
    def first_own_level(self) -> int:
        """The first level (from 0) with own blocks."""
        return 0 if self.layout == "width" else self.shared_levels


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How the weights are found."""

    seed: int = 0
    epochs: int = 3  # passes after the first one, which standardises
    batch_users: int = 256  # users per step; a row group's last step has what is left
    learning_rate: float = 3e-4
    held_out_share: float = 0.1  # of users, by hash of their id
    held_out_slices: int = 4096  # kept per source to measure the error
    slices_per_code: int = 50  # reservoir per source = this x the largest codebook that it chooses from
    threads: int = 1  # of torch and BLAS; others give other last bits, and on busy cores 2 took 6 to 15 times as long as 1

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "training.seed", self.seed, "0 to 4294967295")
        require(self.epochs >= 0, "training.epochs", self.epochs, "0 or more")
        require(self.batch_users >= 1, "training.batch_users", self.batch_users, "1 or more")
        require(0 < self.learning_rate < 1, "training.learning_rate", self.learning_rate, "between 0 and 1")
        require(0 <= self.held_out_share < 1, "training.held_out_share", self.held_out_share, "0 up to 1")
        require(self.held_out_slices >= 1, "training.held_out_slices", self.held_out_slices, "1 or more")
        require(self.slices_per_code >= 1, "training.slices_per_code", self.slices_per_code, "1 or more")
        require(self.threads >= 1, "training.threads", self.threads, "1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingConfig:
    """What makes codes independent of the batch."""

    block_rows: int = 1024  # slices per matrix product; the last block is padded
    block_users: int = 64  # users per run of a Q-Former; 64 were as fast as any on one core, and small batches are padded to them
    threads: int = 1  # torch threads per block, whatever the process has set

    def __post_init__(self) -> None:
        for name, size in (("block_rows", self.block_rows), ("block_users", self.block_users)):
            require(size >= 16 and size % 16 == 0, f"encoding.{name}", size, "a multiple of 16")
        require(self.threads >= 1, "encoding.threads", self.threads, "1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Everything that changes a tokenizer besides its data."""

    stage1: str = "text"  # a slice's embedding: "text" (of its text, by `text`) | "qformer" (of its events, by `qformer`)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    text_model: TextModelConfig = field(default_factory=TextModelConfig)  # at work where `stage1` is "text" and `text.kind` is "sentence-transformers"
    qformer: QFormerConfig = QFormerConfig()
    encoder: SliceEncoderConfig = SliceEncoderConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    training: TrainingConfig = TrainingConfig()
    encoding: EncodingConfig = EncodingConfig()

    def __post_init__(self) -> None:
        require(self.stage1 in ("text", "qformer"), "stage1", self.stage1, "text or qformer")

    @property
    def reads_events(self) -> bool:
        """Whether the event arrays have to be streamed."""
        return self.stage1 == "qformer"

    @property
    def reads_text_model(self) -> bool:
        """Whether a sentence-transformers model is needed."""
        return self.stage1 == "text" and self.text.kind == "sentence-transformers"

    @property
    def without_places(self) -> "TokenizerConfig":
        """Itself without what only says where something lies; what the fingerprint covers."""
        return replace(self, text_model=replace(self.text_model, model=""))

    def to_json(self) -> str:
        """Canonical JSON; the inverse of `from_json`."""
        return canonical_json(to_plain(self))

    @classmethod
    def from_json(cls, text: str) -> "TokenizerConfig":
        """The configuration that `to_json` wrote; ConfigError names what is unknown, missing or mistyped."""
        return from_plain(cls, _parse(text, "config"), "config")


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON ({error.msg} at character {error.pos})") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, thousands of brackets
        raise ConfigError(f"{where}: not JSON that can be read ({type(error).__name__})") from error
