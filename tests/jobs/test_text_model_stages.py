"""A tokenizer over a sentence-transformers model through the stages and on the executors."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from jobs import encode_users, train_tokenizer
from jobs.context import Context
from jobs.delta_tables import Where
from jobs.registered_tokenizers import find_registered, load_registered
from schemas.keys import Days
from tests.u2qt_model.conftest import save_qwen
from u2qt_model import presets
from u2qt_model.errors import CheckpointError
from u2qt_model.settings import with_settings
from u2qt_model.stream import read_files

LEARNT = Days(date(2024, 1, 1), date(2024, 1, 2))
LAST = Days(date(2024, 1, 3), date(2024, 1, 3))


def test_executors_read_the_model_and_give_the_frozen_codes(writable: Context, tmp_path: Path) -> None:
    """Found at its path by every worker, user by user as on the driver; once it is gone the error says where it was."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    model = save_qwen(tmp_path / "model", ends=False)
    chosen = ["text.kind=sentence-transformers", f"text_model.model={model}", "text_model.pooling=lasttoken", "training.epochs=0"]
    train_tokenizer.run(writable, LEARNT, "m1", with_settings(presets.tiny(), chosen))
    encode_users.run(writable, LAST, "m1")
    registered = find_registered(writable, "m1")
    tokenizer = load_registered(registered, writable.catalog)
    files = writable.lake.active_files("user_features", writable.lake.version("user_features"), Where(days=LAST))
    expected = {}
    for batch in read_files([file.url for file in files], tokenizer.layout):
        assert batch.row_hash is not None
        expected |= dict(zip(batch.row_hash.tolist(), tokenizer.encode(batch), strict=True))
    rows = writable.lake.read("staged_user_tokens").where((F.col("ds") == "2024-01-03") & (F.col("tokenizer_version") == "m1")).collect()
    assert len(rows) == len(expected) > 10
    for row in rows:
        for source, codes in zip(tokenizer.layout.source_names, expected[row.row_hash], strict=True):
            found = row[f"{source}_codes"]
            np.testing.assert_array_equal(codes, [-1] * len(codes) if found is None else found)
    model.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=f"found no folder {model}, expected a sentence-transformers model"):
        load_registered(registered, writable.catalog)
