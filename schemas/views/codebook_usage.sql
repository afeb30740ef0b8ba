CREATE OR REPLACE VIEW codebook_usage (
  tokenizer_version COMMENT 'Tokenizer; every registered version has its rows, published or not.',
  source COMMENT 'Behaviour source.',
  level COMMENT 'Level, from 1 (coarse).',
  shared COMMENT 'Whether all sources use this codebook; it is counted here for one source at a time.',
  codebook_size COMMENT 'Codes that the codebook has.',
  used COMMENT 'Codes that at least one published slice of the source has.',
  dead COMMENT 'Codes that none has: codebook_size - used.',
  perplexity COMMENT 'exp of the entropy of the codes: how many codes would be in use if all were used equally. NULL without slices.',
  slices COMMENT 'Published slices of the source, over all days.'
)
COMMENT 'How much of each codebook the published tokens use, per tokenizer version, source, level and codebook.'
AS WITH layouts AS (
  SELECT
    tokenizer_version,
    from_json(
      layout,
      'sources ARRAY<STRUCT<name: STRING, levels: ARRAY<STRUCT<level: INT, shared_size: INT, codebook_size: INT>>>>'
    ) AS layout
  FROM tokenizers
), codebooks AS (
  SELECT tokenizer_version, source.name AS source, codebook.level, codebook.shared, codebook.shared_size, codebook.codebook_size
  FROM layouts
  LATERAL VIEW explode(layout.sources) AS source
  LATERAL VIEW explode(flatten(transform(source.levels, l -> filter(array(
    named_struct('level', l.level, 'shared', true, 'shared_size', l.shared_size, 'codebook_size', l.shared_size),
    named_struct('level', l.level, 'shared', false, 'shared_size', l.shared_size, 'codebook_size', l.codebook_size - l.shared_size)
  ), codebook -> codebook.codebook_size > 0)))) AS codebook
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
  codebooks.tokenizer_version,
  codebooks.source,
  codebooks.level,
  shared,
  codebook_size,
  count(code) AS used,
  codebook_size - count(code) AS dead,
  exp(ln(sum(n)) - sum(n * ln(n)) / sum(n)) AS perplexity,
  coalesce(sum(n), 0) AS slices
FROM codebooks
LEFT JOIN counts
  ON codebooks.tokenizer_version = counts.tokenizer_version
  AND codebooks.source = counts.source
  AND codebooks.level = counts.level
  AND shared = (code < shared_size)
GROUP BY codebooks.tokenizer_version, codebooks.source, codebooks.level, shared, codebook_size
