CREATE OR REPLACE VIEW user_token_sequences (
  user_id COMMENT 'User id.',
  as_of COMMENT 'Last published day of the promoted version; the same in every row. For other moments: u2qt join --sequence-days.',
  tokenizer_version COMMENT 'The promoted version; the same in every row.',
  sequence COMMENT 'What the user did in the 90 days that end with as_of: one element per day and source, by day, then in the order of the catalog.',
  days COMMENT 'Days of the 90 on which the user was active.',
  slices COMMENT 'Elements of the sequence.',
  tokens COMMENT 'Codes in the sequence, all slices together.',
  text COMMENT 'The sequence for language models: <day/> for each day up to as_of, then a block <source>token names</source> per slice. NULL: a code without a name.',
  available_at COMMENT 'Moment from which the whole sequence could be known: a label earlier than this must not see it.'
)
COMMENT 'The last 90 days of every user who was active in them, as input for sequence models. One row per user.'
AS SELECT
  user_id,
  as_of,
  tokenizer_version,
  sequence,
  size(array_distinct(sequence.ds)) AS days,
  size(sequence) AS slices,
  aggregate(sequence, 0, (sum, slice) -> sum + size(slice.codes)) AS tokens,
  CASE WHEN forall(blocks, block -> block IS NOT NULL)
    THEN concat(array_join(blocks, ''), repeat('<day/>', datediff(as_of, element_at(sequence, -1).ds)))
  END AS text,
  available_at
FROM (
  SELECT
    *,
    transform(sequence, (slice, i) -> concat(
      repeat('<day/>', coalesce(datediff(slice.ds, get(sequence, i - 1).ds), 1)),
      '<', slice.source, '>',
      aggregate(
        transform(slice.codes, (code, level) -> CASE
          WHEN code < element_at(shared_sizes, concat_ws('/', slice.source, level + 1)) THEN format_string('<shared_%d_%04d>', level + 1, code)
          WHEN code >= element_at(shared_sizes, concat_ws('/', slice.source, level + 1)) THEN format_string('<%s_%d_%04d>', slice.source, level + 1, code)
        END),
        CAST('' AS STRING),
        (so_far, name) -> concat(so_far, name)
      ),
      '</', slice.source, '>'
    )) AS blocks
  FROM (
    SELECT
      user_id,
      (SELECT max(ds) FROM user_tokens_current) AS as_of,
      tokenizer_version,
      flatten(transform(array_sort(collect_list(struct(ds, slices))), day -> day.slices)) AS sequence,
      (
        SELECT map_from_entries(flatten(transform(
          from_json(any_value(layout), 'sources ARRAY<STRUCT<name: STRING, levels: ARRAY<STRUCT<level: INT, shared_size: INT>>>>').sources,
          s -> transform(s.levels, l -> struct(concat_ws('/', s.name, l.level), l.shared_size))
        )))
        FROM tokenizers
        WHERE tokenizer_version = (SELECT max_by(tokenizer_version, seq) FROM promotions)
      ) AS shared_sizes,
      max(available_at) AS available_at
    FROM (
      SELECT
        user_id,
        ds,
        tokenizer_version,
        available_at,
        filter(array(
          named_struct('ds', ds, 'source', '{source}', 'codes', {source}_codes)
        ), slice -> slice.codes IS NOT NULL) AS slices
      FROM user_tokens_current
      WHERE ds > (SELECT date_sub(max(ds), 90) FROM user_tokens_current)
    )
    GROUP BY user_id, tokenizer_version
  )
)
