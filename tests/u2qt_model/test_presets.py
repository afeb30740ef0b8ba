"""Named runs."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from u2qt_model.config import TokenizerConfig
from u2qt_model.errors import ConfigError
from u2qt_model.presets import base, demo, tiny


@pytest.mark.parametrize("preset", [tiny, demo, base])
def test_preset_takes_seed_and_quantizer(preset: Callable[..., TokenizerConfig]) -> None:
    """Four levels for either quantizer, so that their errors compare."""
    residual, plain = preset(seed=3), preset(seed=3, quantizer="rq_kmeans")
    assert (residual.training.seed, residual.quantizer.kind, plain.quantizer.kind) == (3, "residual", "rq_kmeans")
    assert residual.quantizer.num_levels == plain.quantizer.num_levels == 4
    assert plain.quantizer.own_levels == 0
    with pytest.raises(ConfigError, match="quantizer: found 'vq'"):
        preset(quantizer="vq")
    wide = preset(layout="width").quantizer
    assert [wide.level_size(level) for level in range(4)] == [residual.quantizer.codebook_size * 3 // 4] * 4
    for wrong in ({"layout": "deep"}, {"layout": "width", "quantizer": "rq_kmeans"}):
        with pytest.raises(ConfigError, match="layout: found"):
            preset(**wrong)


@pytest.mark.parametrize("preset", [tiny, demo, base])
def test_preset_takes_stage_one(preset: Callable[..., TokenizerConfig]) -> None:
    """Text unless asked; the choice changes nothing else."""
    assert preset().stage1 == "text"
    assert replace(preset(stage1="qformer"), stage1="text") == preset()
    assert preset(stage1="qformer").reads_events
    assert not preset().reads_events
    with pytest.raises(ConfigError, match="stage1: found 'bert', expected text or qformer"):
        preset(stage1="bert")
