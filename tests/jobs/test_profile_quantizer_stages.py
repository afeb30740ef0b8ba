"""A tokenizer whose profile has a quantizer of its own, through the stages to SQL: arrays of the source's own length."""

from dataclasses import replace
from datetime import date

from jobs import audit_tokens, create_views, encode_users, promote_tokenizer, publish_tokens, train_tokenizer
from jobs.context import Context
from jobs.registered_tokenizers import find_registered, load_registered
from schemas.keys import Days
from u2qt_model import presets

LEARNT = Days(date(2024, 1, 1), date(2024, 1, 2))
LAST = Days(date(2024, 1, 3), date(2024, 1, 3))


def test_each_source_has_its_own_number_of_codes(writable: Context) -> None:
    """The audit takes them, the views name them as the vocabulary does, and the usage counts them."""
    config = presets.tiny()
    train_tokenizer.run(writable, LEARNT, "p1", replace(config, quantizer=replace(config.quantizer, profile_levels=6, profile_size=16)))
    for stage in (encode_users, audit_tokens, publish_tokens):
        stage.run(writable, LAST, "p1")
    promote_tokenizer.run(writable, "p1", "profile apart", allow_gap="its codes are looked at, not its days")
    create_views.run(writable)
    sizes = writable.spark.sql("SELECT DISTINCT size(bill_codes) bill, size(profile_codes) profile FROM user_tokens_current WHERE profile_codes IS NOT NULL")
    assert {tuple(row) for row in sizes.where("bill IS NOT NULL").collect()} == {(4, 6)}
    words = load_registered(find_registered(writable, "p1"), writable.catalog).vocabulary
    rows = writable.spark.sql("SELECT source, level, code, token FROM user_tokens_long WHERE source IN ('bill', 'profile')").distinct().collect()
    assert {row.level for row in rows if row.source == "profile"} == {1, 2, 3, 4, 5, 6}
    assert all(row.token == words.token_name(row.source, row.level, row.code) for row in rows)
    usage = writable.spark.sql("SELECT level, shared, codebook_size FROM codebook_usage WHERE tokenizer_version = 'p1' AND source = 'profile' ORDER BY level")
    assert [tuple(row) for row in usage.collect()] == [(level, False, 16) for level in range(1, 7)]
    texts = writable.spark.sql("SELECT text FROM user_token_sequences").collect()
    assert texts
    assert all(row.text is not None for row in texts)
