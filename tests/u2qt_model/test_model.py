"""The weights of a tokenizer: which tensors there are, and that they don't depend on anything but the configuration."""

import pytest

from u2qt_model import FeatureLayout
from u2qt_model.model import TokenizerModel
from u2qt_model.presets import tiny
from u2qt_model.residual_quantizer import ResidualQuantizer
from u2qt_model.rq_kmeans import RqKmeans
from u2qt_model.text_embedder import TextEmbedder


def _model(layout: FeatureLayout, quantizer: str, seed: int = 0) -> TokenizerModel:
    config = tiny(quantizer=quantizer, seed=seed)
    return TokenizerModel(layout, config, TextEmbedder(layout, config))


@pytest.mark.parametrize(("quantizer", "kind"), [("residual", ResidualQuantizer), ("rq_kmeans", RqKmeans)])
def test_configuration_decides_the_quantizer(layout: FeatureLayout, quantizer: str, kind: type) -> None:
    """A projection per source, as wide as its embedding."""
    model = _model(layout, quantizer)
    assert isinstance(model.quantizer, kind)
    assert [tuple(model.projection(source).basis.shape) for source in range(3)] == [(256, 32), (256, 32), (67, 32)]
    assert model.seen.tolist() == [0, 0, 0]


def test_untrained_weights_repeat_for_a_seed(layout: FeatureLayout) -> None:
    """The same tensors twice; another seed draws other networks."""
    first, again, other = (_model(layout, "residual", seed).state_dict() for seed in (0, 0, 1))
    assert all(again[name].equal(tensor) for name, tensor in first.items())
    assert not all(other[name].equal(tensor) for name, tensor in first.items())
