CREATE OR REPLACE VIEW codebook_usage (
  tokenizer_version COMMENT 'Tokenizer; every registered version has its rows, published or not.',
  source COMMENT 'Behaviour source.',
  level COMMENT 'Level, from 1 (coarse).',
  shared COMMENT 'Whether all sources use one codebook at this level; it is counted here for one source at a time.',
  codebook_size COMMENT 'Codes that the level has.',
  used COMMENT 'Codes that at least one published slice of the source has.',
  dead COMMENT 'Codes that none has: codebook_size - used.',
  perplexity COMMENT 'exp of the entropy of the codes: how many codes would be in use if all were used equally. NULL without slices.',
  slices COMMENT 'Published slices of the source, over all days.'
)
COMMENT 'How much of each codebook the published tokens use, per tokenizer version, source and level.'
AS WITH codebooks AS (
  SELECT tokenizer_version, source, codebook.level, codebook.shared, codebook.codebook_size
  FROM (
    SELECT
      tokenizer_version,
      from_json(
        layout,
        'sources ARRAY<STRUCT<name: STRING>>, levels ARRAY<STRUCT<level: INT, shared: BOOLEAN, codebook_size: INT>>'
      ) AS layout
    FROM tokenizers
  )
  LATERAL VIEW explode(layout.sources.name) AS source
  LATERAL VIEW explode(layout.levels) AS codebook
), slices AS (
  SELECT
    tokenizer_version,
    explode(array(
      named_struct('source', '{source}', 'codes', {source}_codes)
    )) AS slice
  FROM user_tokens
), codes AS (
  SELECT tokenizer_version, slice.source, posexplode(slice.codes) AS (position, code)
  FROM slices
), counts AS (
  SELECT tokenizer_version, source, position + 1 AS level, code, count(*) AS n
  FROM codes
  GROUP BY tokenizer_version, source, position, code
)
SELECT
  tokenizer_version,
  source,
  level,
  shared,
  codebook_size,
  count(code) AS used,
  codebook_size - count(code) AS dead,
  exp(ln(sum(n)) - sum(n * ln(n)) / sum(n)) AS perplexity,
  coalesce(sum(n), 0) AS slices
FROM codebooks
LEFT JOIN counts USING (tokenizer_version, source, level)
GROUP BY tokenizer_version, source, level, shared, codebook_size
