"""Layouts and configurations: round trips, and every guard with the case that it refuses."""

import json
from typing import Any

import pytest

from u2qt_model.config import (
    EncodingConfig,
    FeatureLayout,
    QFormerConfig,
    QuantizerConfig,
    SliceEncoderConfig,
    SourceLayout,
    TextEncoderConfig,
    TokenizerConfig,
    TrainingConfig,
)
from u2qt_model.errors import ConfigError
from u2qt_model.presets import base, demo, tiny

EVENTS: dict[str, Any] = {"name": "bill", "kind": "events", "num_ids": 1, "num_values": 1, "max_events": 4}


@pytest.mark.parametrize("config", [tiny(), tiny(stage1="qformer"), demo(seed=3), base(quantizer="rq_kmeans"), TokenizerConfig()])
def test_config_survives_json(config: TokenizerConfig) -> None:
    """`from_json` is the inverse of `to_json`."""
    assert TokenizerConfig.from_json(config.to_json()) == config


def test_layout_survives_json(layout: FeatureLayout) -> None:
    """`from_json` is the inverse of `to_json`."""
    assert FeatureLayout.from_json(layout.to_json()) == layout


def test_columns_are_those_of_the_feature_table(layout: FeatureLayout) -> None:
    """Event arrays are read on request only."""
    text = ("bill_text", "bill_count", "search_2_text", "search_2_count", "profile_count", "profile_values", "profile_ids")
    assert layout.columns() == text
    assert set(layout.columns(events=True)) - set(text) == {
        f"{source}_{array}" for source in ("bill", "search_2") for array in ("event_ids", "event_values", "mask")
    }


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        (tiny().to_json().replace("epochs", "epoques"), "epochs"),
        (tiny().to_json().replace('"epochs":2', '"epochs":"2"'), "config.training.epochs: found '2', expected int"),
        (tiny().to_json().replace('"epochs":2', '"epochs":true'), "found True"),
    ],
)
def test_foreign_config_is_refused(text: str, word: str) -> None:
    """An unknown, missing or mistyped key is named."""
    with pytest.raises(ConfigError, match=word):
        TokenizerConfig.from_json(text)


def test_sources_that_are_no_list_are_refused(layout: FeatureLayout) -> None:
    """A list is expected where the layout has a tuple."""
    plain = json.loads(layout.to_json()) | {"sources": {}}
    with pytest.raises(ConfigError, match=r"layout\.sources: found dict, expected a list"):
        FeatureLayout.from_json(json.dumps(plain))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Bill"},
        {"name": "shared"},
        {"kind": "event"},
        {"num_ids": -1},
        {"num_values": -1},
        {"max_events": 0},
        {"kind": "profile"},
        {"kind": "profile", "max_events": 1, "num_ids": 0, "num_values": 0},
        {"timed": True},
        {"timed": True, "kind": "profile", "max_events": 1, "num_values": 2},
    ],
)
def test_impossible_source_is_refused(change: dict[str, Any]) -> None:
    """The message names the source or its setting."""
    with pytest.raises(ConfigError, match="found"):
        SourceLayout(**{**EVENTS, **change})


def test_impossible_layout_is_refused() -> None:
    """No source, two of one name, no bucket."""
    source = SourceLayout(**EVENTS)
    for sources, buckets in [((), 1), ((source, source), 1), ((source,), 0)]:
        with pytest.raises(ConfigError):
            FeatureLayout(catalog="c", hash_buckets=buckets, sources=sources)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (TextEncoderConfig, {"kind": "bert"}),
        (TextEncoderConfig, {"width": 4}),
        (TextEncoderConfig, {"max_ngram": 0}),
        (TokenizerConfig, {"stage1": "bert"}),
        (QFormerConfig, {"queries": 0}),
        (QFormerConfig, {"width": 40}),
        (QFormerConfig, {"heads": 3}),
        (QFormerConfig, {"blocks": 0}),
        (QFormerConfig, {"bag_buckets": 1}),
        (QFormerConfig, {"epochs": -1}),
        (QFormerConfig, {"batch_users": 0}),
        (QFormerConfig, {"learning_rate": 0.0}),
        (QFormerConfig, {"warm_up": 1.0}),
        (QFormerConfig, {"weight_decay": -0.1}),
        (QFormerConfig, {"bag_weight": -1.0}),
        (QFormerConfig, {"value_weight": float("inf")}),
        (QFormerConfig, {"contrast_weight": float("nan")}),
        (QFormerConfig, {"temperature": 0.0}),
        (SliceEncoderConfig, {"code_dim": 0}),
        (SliceEncoderConfig, {"hidden": -1}),
        (SliceEncoderConfig, {"id_buckets": 0}),
        (SliceEncoderConfig, {"clip": 0.0}),
        (SliceEncoderConfig, {"clip": float("inf")}),
        (QuantizerConfig, {"kind": "vq"}),
        (QuantizerConfig, {"shared_levels": -1}),
        (QuantizerConfig, {"own_levels": -1}),
        (QuantizerConfig, {"shared_levels": 0, "own_levels": 0}),
        (QuantizerConfig, {"shared_levels": 60, "own_levels": 5}),
        (QuantizerConfig, {"codebook_size": 2**15 + 1}),
        (QuantizerConfig, {"kmeans_iterations": 0}),
        (QuantizerConfig, {"ema_decay": 1.0}),
        (QuantizerConfig, {"commitment": -1.0}),
        (QuantizerConfig, {"commitment": float("nan")}),
        (TrainingConfig, {"seed": -1}),
        (TrainingConfig, {"seed": 2**32}),
        (TrainingConfig, {"epochs": -1}),
        (TrainingConfig, {"batch_users": 0}),
        (TrainingConfig, {"learning_rate": 1.0}),
        (TrainingConfig, {"held_out_share": 1.0}),
        (TrainingConfig, {"held_out_slices": 0}),
        (TrainingConfig, {"slices_per_code": 0}),
        (TrainingConfig, {"threads": 0}),
        (EncodingConfig, {"block_rows": 100}),
        (EncodingConfig, {"block_users": 8}),
        (EncodingConfig, {"threads": 0}),
    ],
)
def test_impossible_setting_is_refused(config: Any, change: dict[str, Any]) -> None:
    """Every guard has a case; the message names the setting."""
    with pytest.raises(ConfigError, match="found"):
        config(**change)


def test_unknown_quantizer_is_refused() -> None:
    """A named run knows two quantizers."""
    with pytest.raises(ConfigError, match="quantizer"):
        tiny(quantizer="width")


def test_a_source_s_largest_codebook_is_that_it_chooses_from() -> None:
    """So many slices a code are kept for its start."""
    config = QuantizerConfig(codebook_size=64, profile_levels=2, profile_size=1024)
    assert (config.largest_block("events"), config.largest_block("profile")) == (64, 1024)
    wide = QuantizerConfig(layout="width", shared_levels=4, own_levels=4, codebook_size=16, own_size=32)
    assert (wide.largest_block("events"), wide.largest_block("profile")) == (32, 32)
