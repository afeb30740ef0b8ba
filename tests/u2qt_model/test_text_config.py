"""Text encoders' settings: every guard with the case that it refuses, and what of them is content."""

from dataclasses import replace
from typing import Any

import pytest

from u2qt_model.errors import ConfigError
from u2qt_model.presets import tiny
from u2qt_model.settings import with_settings
from u2qt_model.text_config import TextModelConfig


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "12"},
        {"width": -1},
        {"prompt": "a", "prompt_name": "query"},
        {"pooling": "first"},
        {"max_tokens": 7},
        {"block_tokens": -1},
        {"precision": "float16"},
        {"device": "tpu"},
    ],
)
def test_impossible_setting_is_refused(change: dict[str, Any]) -> None:
    """The message names the last setting of the case."""
    with pytest.raises(ConfigError, match=f"text_model.{list(change)[-1]}: found"):
        TextModelConfig(**change)


def test_a_model_is_read_where_it_is_named_and_at_work() -> None:
    """Not by a Q-Former; settings come from the command line as others do."""
    config = with_settings(tiny(), ["text.kind=sentence-transformers", "text_model.model=/m", "text_model.max_tokens=64", "text_model.prompt=a=b"])
    assert config.reads_text_model
    assert (config.text_model.max_tokens, config.text_model.prompt) == (64, "a=b")
    assert not tiny().reads_text_model
    assert not replace(config, stage1="qformer").reads_text_model


def test_places_are_no_content() -> None:
    """Two folders, one configuration; another prompt is another one."""
    here, there, other = (replace(tiny(), text_model=model) for model in (TextModelConfig(model="a"), TextModelConfig(model="b"), TextModelConfig(prompt="p")))
    assert here.without_places == there.without_places != other.without_places
