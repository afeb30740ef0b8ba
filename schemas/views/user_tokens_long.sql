CREATE OR REPLACE VIEW user_tokens_long (
  user_id COMMENT 'User id.',
  ds COMMENT 'Day whose behaviour the code describes, in the time zone of the catalog.',
  tokenizer_version COMMENT 'The promoted version; the same in every row.',
  source COMMENT 'Behaviour source.',
  level COMMENT 'Level of the code, from 1 (coarse).',
  code COMMENT 'Code, from 0 to the codebook size of the level less 1.',
  token COMMENT 'Name of the token: source, level and code; shared codes are named alike in every source.'
)
COMMENT 'Published tokens of the promoted tokenizer, one row per user, day, source and level.'
AS SELECT
  user_id,
  ds,
  tokenizer_version,
  source,
  level,
  code,
  CASE
    WHEN code < shared_size THEN format_string('<shared_%d_%04d>', level, code)
    WHEN code >= shared_size THEN format_string('<%s_%d_%04d>', source, level, code)
  END AS token
FROM (
  SELECT
    user_id,
    ds,
    tokenizer_version,
    source,
    position + 1 AS level,
    code,
    element_at((
      SELECT map_from_entries(flatten(transform(
        from_json(any_value(layout), 'sources ARRAY<STRUCT<name: STRING, levels: ARRAY<STRUCT<level: INT, shared_size: INT>>>>').sources,
        s -> transform(s.levels, l -> struct(concat_ws('/', s.name, l.level), l.shared_size))
      )))
      FROM tokenizers
      WHERE tokenizer_version = (SELECT max_by(tokenizer_version, seq) FROM promotions)
    ), concat_ws('/', source, position + 1)) AS shared_size
  FROM (
    SELECT user_id, ds, tokenizer_version, slice.source, posexplode(slice.codes) AS (position, code)
    FROM (
      SELECT
        user_id,
        ds,
        tokenizer_version,
        explode(array(
          named_struct('source', '{source}', 'codes', {source}_codes)
        )) AS slice
      FROM user_tokens_current
    )
  )
)
