"""A Q-Former tokenizer through the stages: event arrays are streamed to it, in training and on the executors."""

from dataclasses import replace
from datetime import date

import numpy as np
from pyspark.sql import functions as F

from jobs import compare_tokenizers, encode_users, train_tokenizer
from jobs.context import Context
from jobs.delta_tables import Where
from jobs.encoding import tokens_udf
from jobs.registered_tokenizers import find_registered, load_registered, ship
from jobs.training_progress import line
from schemas.keys import Days
from u2qt_model import presets
from u2qt_model.config import EncodingConfig
from u2qt_model.progress import Progress
from u2qt_model.stream import read_files

LEARNT = Days(date(2024, 1, 1), date(2024, 1, 2))
LAST = Days(date(2024, 1, 3), date(2024, 1, 3))


def test_executors_give_the_codes_of_the_frozen_tokenizer(writable: Context) -> None:
    """The stage and the UDF equal `encode` on the driver, user by user."""
    config = replace(presets.tiny(stage1="qformer"), encoding=EncodingConfig(block_rows=64, block_users=16))
    train_tokenizer.run(writable, LEARNT, "q1", config)
    encode_users.run(writable, LAST, "q1")
    registered = find_registered(writable, "q1")
    assert registered.layout["stage1"] == "qformer"
    tokenizer = load_registered(registered, writable.catalog)
    files = writable.lake.active_files("user_features", writable.lake.version("user_features"), Where(days=LAST))
    expected = {}
    for batch in read_files([file.url for file in files], tokenizer.layout, events=True):
        assert batch.row_hash is not None
        expected |= dict(zip(batch.row_hash.tolist(), tokenizer.encode(batch), strict=True))
    frozen = ship(writable, registered, tokenizer.layout.source_names)
    features = writable.lake.read("user_features").where("ds = '2024-01-03'").repartition(3)
    by_udf = features.select("row_hash", tokens_udf(frozen)(F.struct(*tokenizer.columns())).alias("codes")).select("row_hash", "codes.*")
    staged = writable.lake.read("staged_user_tokens").where("ds = '2024-01-03' AND tokenizer_version = 'q1'")
    for rows in (staged.collect(), by_udf.collect()):
        assert len(rows) == len(expected) > 10
        for row in rows:
            for source, codes in zip(tokenizer.layout.source_names, expected[row.row_hash], strict=True):
                found = row[f"{source}_codes"]
                np.testing.assert_array_equal(codes, [-1] * len(codes) if found is None else found)
    for pair in (("v1", "q1"), ("q1", "v1")):
        assert compare_tokenizers.run(writable, LAST, *pair).sampled == len(expected), "each reads columns that the other does not"


def test_progress_is_said_in_words() -> None:
    """A Q-Former's epochs are told from the quantizer's; its loss is no error."""
    state = Progress(phase="qformer", epoch=2, step=7, users=1200, users_per_second=300.0, loss=1.25)
    assert line(state) == "Q-Former epoch 2: 1,200 user-days, loss 1.2500, 300/s"
    assert line(replace(state, epoch=0, loss=None)) == "Q-Former, reading for the moments: 1,200 user-days, 300/s"
    assert line(replace(state, phase="epoch", loss=None, error=0.5)) == "epoch 2: 1,200 user-days, error 0.5000, 300/s"
    assert line(replace(state, phase="start", epoch=0, users_per_second=0.0, loss=None)) == "started by k-means: 1,200 user-days"
