CREATE OR REPLACE VIEW user_tokens_current (
  user_id COMMENT 'User id.',
  ds COMMENT 'Day whose behaviour the codes describe, in the time zone of the catalog.',
  tokenizer_version COMMENT 'The promoted version; the same in every row.',
  available_at COMMENT 'Moment from which the row could be known: a label earlier than this must not see it.',
  row_hash COMMENT 'Hash of the features behind the codes; equal hash, equal codes.',
  run_id COMMENT 'Run that wrote the row; see table runs.',
  {source}_codes COMMENT 'Codes of {source}, one per level, coarse first. NULL: nothing there that day.'
)
COMMENT 'Published tokens of the promoted tokenizer, one row per user and day. Empty before the first promotion.'
AS SELECT
  user_id,
  ds,
  tokenizer_version,
  available_at,
  row_hash,
  run_id,
  {source}_codes
FROM user_tokens
WHERE tokenizer_version = (SELECT max_by(tokenizer_version, seq) FROM promotions)
