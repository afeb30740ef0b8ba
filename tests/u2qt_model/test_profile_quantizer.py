"""The profile's own residual quantizer: its levels and codes, beside the event sources' shared ones."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from u2qt_model import FeatureBatch, FeatureLayout, SourceLayout, Tokenizer, TokenizerConfig, load, save
from u2qt_model.errors import ConfigError
from u2qt_model.presets import tiny
from u2qt_model.train import train
from u2qt_model.training_state import RunFile

Open = Callable[[], Iterator[FeatureBatch]]


def own(config: TokenizerConfig, levels: int = 6, size: int = 16) -> TokenizerConfig:
    return replace(config, quantizer=replace(config.quantizer, profile_levels=levels, profile_size=size))


@pytest.fixture(scope="module", params=["depth", "width", "rq_kmeans"])
def trained(request: pytest.FixtureRequest, layout: FeatureLayout, open_stream: Open) -> Tokenizer:
    config = tiny(quantizer="rq_kmeans") if request.param == "rq_kmeans" else tiny(layout=request.param)
    return train(layout, own(config), open_stream)


def test_codes_have_the_levels_of_their_source(trained: Tokenizer, make_batch: Callable[..., FeatureBatch]) -> None:
    """Four for events and six for the profile; -1 below a source's last level; ids and vectors come back."""
    codes = trained.encode(make_batch(80, 9))
    assert codes.shape == (80, 3, 6)
    assert (codes[:, :2, 4:] == -1).all()
    assert codes[:, 2].min() >= 0
    assert codes[:, 2].max() < 16
    np.testing.assert_array_equal(trained.vocabulary.codes(trained.vocabulary.token_ids(codes)), codes)
    error = np.square(trained.project(make_batch(80, 9)) - trained.decode(codes))[:, 2].sum()
    assert error < 0.5 * np.square(trained.project(make_batch(80, 9)))[:, 2].sum()


def test_event_sources_do_not_share_with_it(trained: Tokenizer, layout: FeatureLayout) -> None:
    """No shared code is the profile's: its names are its own on every level."""
    assert all(trained.vocabulary.token_name("profile", level, 0) == f"<profile_{level}_0000>" for level in range(1, 7))
    levels = {source["name"]: source["levels"] for source in trained.describe()["sources"]}
    assert [len(levels[name]) for name in layout.source_names] == [4, 4, 6]
    assert all(level["shared_size"] == 0 and level["codebook_size"] == 16 for level in levels["profile"])


def test_checkpoint_and_metrics_hold_both(trained: Tokenizer, make_batch: Callable[..., FeatureBatch], tmp_path: Path) -> None:
    """Same codes after loading; a report for every level and codebook of both quantizers."""
    loaded = load(save(trained, tmp_path / "v1"))
    np.testing.assert_array_equal(loaded.encode(make_batch(30, 4)), trained.encode(make_batch(30, 4)))
    assert loaded.token_vectors().shape == (trained.vocabulary.size, 32)
    sources = trained.metrics["sources"]
    assert [len(sources[name]["levels"]) for name in trained.layout.source_names] == [4, 4, 6]
    assert sources["profile"]["relative_squared_error"] == sorted(sources["profile"]["relative_squared_error"], reverse=True)
    assert [report["level"] for report in trained.metrics["codebooks"] if report["codebook"] == "profile"] == [1, 2, 3, 4, 5, 6]


def test_a_killed_training_goes_on_to_the_same_fingerprint(layout: FeatureLayout, open_stream: Open, tmp_path: Path) -> None:
    """Both quantizers are in the run's file."""
    config = own(tiny())
    run_file = RunFile.of(tmp_path / "run", layout, config, "data")

    def killed(progress: object) -> None:
        if getattr(progress, "epoch", 0) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(layout, config, open_stream, killed, run_file)
    assert train(layout, config, open_stream, run_file=run_file).fingerprint == train(layout, config, open_stream).fingerprint


def test_a_catalog_without_a_profile_refuses_it(open_stream: Open) -> None:
    """The setting is named."""
    bill = SourceLayout(name="bill", kind="events", num_ids=2, num_values=1, max_events=3)
    layout = FeatureLayout(catalog="test", hash_buckets=1000, sources=(bill,))
    with pytest.raises(ConfigError, match=r"quantizer\.profile_levels: found 6, expected 0: catalog test has no profile"):
        train(layout, own(tiny()), open_stream)
