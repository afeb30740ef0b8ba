"""A whole tokenizer with a Q-Former as stage 1: trained, frozen, saved, loaded."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from u2qt_model import FeatureBatch, FeatureLayout, Tokenizer, checkpoint
from u2qt_model.config import EncodingConfig
from u2qt_model.errors import BatchError, CheckpointError, TrainingError
from u2qt_model.presets import tiny
from u2qt_model.progress import Progress
from u2qt_model.train import train

Columns = dict[str, np.ndarray[Any, Any]]
MakeColumns = Callable[..., Columns]
MakeBatch = Callable[..., FeatureBatch]
Open = Callable[[], Iterator[FeatureBatch]]
CONFIG = replace(tiny(stage1="qformer"), encoding=EncodingConfig(block_rows=16, block_users=16))


@pytest.fixture(scope="module")
def seen() -> list[Progress]:
    """What the training below reported."""
    return []


@pytest.fixture(scope="module")
def trained(layout: FeatureLayout, open_stream: Open, seen: list[Progress]) -> Tokenizer:
    return train(layout, CONFIG, open_stream, seen.append)


def test_codes_are_there_exactly_where_the_source_is(trained: Tokenizer, make_batch: MakeBatch) -> None:
    """(B, S, L) in [0, K), -1 where absent; most codes are in use."""
    batch = make_batch(60, 7)
    codes = trained.encode(batch)
    present = np.stack([batch.slices[name].present for name in trained.layout.source_names], axis=1)
    np.testing.assert_array_equal(codes == -1, np.broadcast_to(~present[:, :, None], codes.shape))
    assert codes.max() < trained.config.quantizer.codebook_size
    assert all(book["usage"] > 0.5 for book in trained.metrics["codebooks"])


def test_codes_do_not_depend_on_batching(trained: Tokenizer, make_columns: MakeColumns, layout: FeatureLayout) -> None:
    """Any order and split of the users gives the same codes and the same margins, to the last bit."""
    columns = make_columns(50, 11)
    expected, expected_margins = trained.encode_with_margins(FeatureBatch.from_columns(columns, layout))
    order = np.random.default_rng(0).permutation(50)
    for rows in np.split(order, [1, 2, 20, 33]):
        codes, margins = trained.encode_with_margins(FeatureBatch.from_columns({name: column[rows] for name, column in columns.items()}, layout))
        np.testing.assert_array_equal(codes, expected[rows])
        np.testing.assert_array_equal(margins, expected_margins[rows])


def test_codes_depend_on_earlier_sources_only(trained: Tokenizer, make_columns: MakeColumns, layout: FeatureLayout) -> None:
    """Without searches bills have the same codes; without bills some searches have others, which text's never do."""
    columns = make_columns(60, 5)
    expected = trained.encode(FeatureBatch.from_columns(columns, layout))
    nobody = np.zeros(60, np.int32)
    unsearched, unbilled = (trained.encode(FeatureBatch.from_columns(columns | {f"{name}_count": nobody}, layout)) for name in ("search_2", "bill"))
    np.testing.assert_array_equal(unsearched[:, 0], expected[:, 0])
    assert (unsearched[:, 1] == -1).all()
    assert (unbilled[:, 1] != expected[:, 1]).any()
    assert ((unbilled[:, 1] == -1) == (expected[:, 1] == -1)).all()


def test_texts_are_not_read(trained: Tokenizer, make_columns: MakeColumns, layout: FeatureLayout) -> None:
    """The events alone decide."""
    columns = make_columns(30, 6)
    silent = columns | {f"{name}_text": np.array([b""] * 30, object) for name in ("bill", "search_2")}
    expected, found = (trained.encode(FeatureBatch.from_columns(given, layout)) for given in (columns, silent))
    np.testing.assert_array_equal(found, expected)


def test_columns_hold_the_event_arrays(trained: Tokenizer, tokenizer: Tokenizer, make_columns: MakeColumns, layout: FeatureLayout) -> None:
    """They are enough to encode; without them the refusal names one; a text tokenizer doesn't ask for them."""
    columns = make_columns(20, 6)
    needed = {name: columns[name] for name in trained.columns()}
    np.testing.assert_array_equal(trained.encode(FeatureBatch.from_columns(needed, layout)), trained.encode(FeatureBatch.from_columns(columns, layout)))
    assert set(trained.columns()) - set(tokenizer.columns()) == {
        f"{s}_{array}" for s in ("bill", "search_2") for array in ("event_ids", "event_values", "mask")
    }
    with pytest.raises(BatchError, match="bill_event_ids: column missing"):
        trained.encode(FeatureBatch.from_columns({name: columns[name] for name in tokenizer.columns()}, layout))


def test_saved_tokenizer_comes_back(trained: Tokenizer, tmp_path: Path, make_batch: MakeBatch) -> None:
    """Same fingerprint, codes and vectors; the Q-Former's weights are in the checkpoint and described."""
    loaded = checkpoint.load(checkpoint.save(trained, tmp_path / "v1"), trained.layout)
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.config == trained.config
    assert loaded.describe()["stage1"] == "qformer"
    assert any(name.startswith("stage1.events.ids") for name in loaded.weights)
    np.testing.assert_array_equal(loaded.encode(make_batch(40, 5)), trained.encode(make_batch(40, 5)))
    np.testing.assert_array_equal(loaded.project(make_batch(40, 5)), trained.project(make_batch(40, 5)))


def test_fingerprint_covers_the_q_former(trained: Tokenizer, tmp_path: Path) -> None:
    """One changed weight of it is another tokenizer, and isn't saved over this one."""
    folder = checkpoint.save(trained, tmp_path / "v1")
    changed = checkpoint.load(folder)
    changed.weights["stage1.queries"][0, 0] += 1
    del changed.__dict__["fingerprint"]
    assert changed.fingerprint != trained.fingerprint
    with pytest.raises(CheckpointError, match="found fingerprint"):
        checkpoint.save(changed, folder)


def test_training_twice_gives_one_fingerprint(trained: Tokenizer, layout: FeatureLayout, open_stream: Open) -> None:
    """Whatever torch's own random state is."""
    torch.manual_seed(99)
    assert train(layout, CONFIG, open_stream).fingerprint == trained.fingerprint


def test_progress_and_metrics_name_the_phase(trained: Tokenizer, tokenizer: Tokenizer, seen: list[Progress]) -> None:
    """It comes before the first pass; its losses are recorded beside the quantizer's errors."""
    assert [(step.phase, step.epoch) for step in seen[:20]] == [("qformer", epoch) for epoch in range(5) for _ in range(4)]
    assert seen[20].phase == "first_pass"
    assert seen[19].loss is not None
    found = trained.metrics["qformer"]
    assert found["held_out_loss"]["total"] == min(found["held_out_loss_by_epoch"]) < found["held_out_loss_by_epoch"][0]
    assert trained.metrics["seconds"]["qformer"] > 0
    assert "qformer" not in tokenizer.metrics


@pytest.mark.parametrize("quantizer", ["residual", "rq_kmeans"])
@pytest.mark.parametrize("absent", ["bill", "profile"])
def test_source_may_be_absent_from_all_data(layout: FeatureLayout, make_columns: MakeColumns, quantizer: str, absent: str) -> None:
    """It stays untrained, the others train, nothing is NaN."""
    batch = FeatureBatch.from_columns(make_columns(120) | {f"{absent}_count": np.zeros(120, np.int32)}, layout)
    found = train(layout, replace(tiny(quantizer=quantizer, stage1="qformer"), encoding=CONFIG.encoding), lambda: iter([batch]))
    assert found.untrained_sources == (absent,)
    assert all(tensor.isfinite().all() for tensor in found.weights.values())
    assert np.isfinite(found.project(batch)).all()


def test_batches_of_one_user_train(layout: FeatureLayout, make_batch: MakeBatch) -> None:
    """Row groups may be that small; nothing is NaN."""
    found = train(layout, CONFIG, lambda: (make_batch(1, seed) for seed in range(12)))
    assert found.metrics["users"] == 12
    assert all(tensor.isfinite().all() for tensor in found.weights.values())


def test_stream_without_slices_is_refused(layout: FeatureLayout) -> None:
    """As for text."""
    with pytest.raises(TrainingError, match="found 0 user-days and no slice in any source"):
        train(layout, CONFIG, lambda: iter([]))
