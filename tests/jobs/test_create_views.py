"""The views over literal tokens: values, names, pruning, other catalogs, other lakehouses, the printed DDL."""

import json
import re
import shutil
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import create_views, init_lakehouse, promote_tokenizer
from jobs.context import Context
from jobs.delta_tables import Lakehouse, Where
from jobs.errors import BadInput
from schemas import lakehouse
from schemas.catalog import Catalog
from schemas.errors import IdentifierError
from schemas.tokenizers import PROMOTIONS

LEVELS = [{"level": 1, "shared_size": 4, "codebook_size": 4}, {"level": 2, "shared_size": 0, "codebook_size": 400}]
SOURCES = ("bill", "mini_program", "spm", "app", "search", "profile")
LAYOUT = json.dumps({"fingerprint": "f", "catalog": "six_sources", "sources": [{"name": s, "kind": "x", "levels": LEVELS} for s in SOURCES]})
TOKENS = [  # user_id, ds, tokenizer_version, bill_codes, search_codes; the other sources are NULL
    ("a", date(2026, 1, 1), "v1", [1, 391], [1, 7]),
    ("a", date(2026, 1, 2), "v1", None, [2, 7]),
    ("b", date(2026, 1, 2), "v1", [3, 0], None),
    ("a", date(2026, 1, 1), "v2", [0, 5], None),
    ("b", date(2025, 10, 3), "v1", [2, 2], None),
    ("b", date(2025, 10, 4), "v1", [2, 3], None),
]


def publish(context: Context) -> None:
    frame = context.spark.createDataFrame(TOKENS, "user_id STRING, ds DATE, tokenizer_version STRING, bill_codes ARRAY<SMALLINT>, search_codes ARRAY<SMALLINT>")
    frame = frame.withColumns({"available_at": F.expr("CAST(ds + INTERVAL '30' HOUR AS TIMESTAMP)"), "row_hash": F.lit(1).cast("bigint"), "run_id": F.lit("r")})
    for source in SOURCES:
        if f"{source}_codes" not in frame.columns:
            frame = frame.withColumn(f"{source}_codes", F.lit(None).cast("ARRAY<SMALLINT>"))
    context.lake.append("user_tokens", frame.coalesce(1), {})


def register_versions(context: Context) -> None:
    rows = [(v, "f", "/c", date(2025, 9, 1), date(2025, 9, 30), LAYOUT, "{}", None, "r") for v in ("v1", "v2")]
    context.lake.append("tokenizers", context.spark.createDataFrame(rows, context.lake.read("tokenizers").schema).coalesce(1), {})


@pytest.fixture(scope="module")
def template(spark: SparkSession, default_catalog: Catalog, empty_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions side by side, v1 promoted."""
    root = tmp_path_factory.mktemp("views") / "lake"
    shutil.copytree(empty_lake, root)
    context = Context(spark=spark, lake=Lakehouse(spark, str(root)), catalog=default_catalog, input_root="", run_id="r")
    publish(context)
    register_versions(context)
    promote_tokenizer.run(context, "v1", "first")
    return root


@pytest.fixture
def published(context: Context, template: Path) -> Context:
    """A lakehouse of its own, with the views in the session's catalog."""
    shutil.copytree(template, context.lake.root)
    create_views.run(context)
    return context


def rows(df: DataFrame) -> list[tuple[object, ...]]:
    return [tuple(row) for row in df.collect()]


def files_read(df: DataFrame) -> int:
    """Data files that the finished query opened, by its scans' own metric."""
    df.collect()
    plan = df._jdf.queryExecution().executedPlan()
    leaves = plan.collectLeaves()
    scans = [leaves.apply(i) for i in range(leaves.size()) if leaves.apply(i).nodeName().startswith("Scan parquet")]
    return sum(scan.metrics().apply("numFiles").value() for scan in scans if "user_id" in scan.output().toString())


def test_the_current_view_follows_the_promotion(published: Context) -> None:
    """Promoting changes what the view shows; nothing is made anew."""
    current = published.spark.table("user_tokens_current")
    assert {row["tokenizer_version"] for row in current.collect()} == {"v1"}
    promote_tokenizer.run(published, "v2", "better", allow_gap="one day is enough here")
    assert rows(published.spark.table("user_tokens_current").select("user_id", "tokenizer_version", "bill_codes")) == [("a", "v2", [0, 5])]


def test_only_partitions_of_the_current_version_are_read(published: Context) -> None:
    """Four of the five files belong to v1, two of these to its last 90 days; with a day, only that day's file of v1 is opened."""
    published.spark.conf.set("spark.sql.adaptive.enabled", "false")  # the finished plan then has its scans as leaves
    try:
        assert len(published.lake.active_files("user_tokens", published.lake.version("user_tokens"))) == 5
        assert files_read(published.spark.sql("SELECT user_id FROM user_tokens")) == 5
        assert files_read(published.spark.sql("SELECT user_id FROM user_tokens_current")) == 4
        assert files_read(published.spark.sql("SELECT user_id FROM user_tokens_current WHERE ds = DATE'2026-01-01'")) == 1
        assert files_read(published.spark.sql("SELECT user_id, token FROM user_tokens_long WHERE ds = DATE'2026-01-01'")) == 1
        assert files_read(published.spark.sql("SELECT user_id, sequence FROM user_token_sequences")) == 2
    finally:
        published.spark.conf.unset("spark.sql.adaptive.enabled")


def test_the_long_view_has_a_row_per_code_with_its_name(published: Context) -> None:
    """Level 1 is shared by the sources, level 2 is the source's own; absent sources have no row."""
    found = published.spark.sql("SELECT source, level, code, token FROM user_tokens_long WHERE user_id = 'a' AND ds = DATE'2026-01-01' ORDER BY source, level")
    assert rows(found) == [
        ("bill", 1, 1, "<shared_1_0001>"),
        ("bill", 2, 391, "<bill_2_0391>"),
        ("search", 1, 1, "<shared_1_0001>"),
        ("search", 2, 7, "<search_2_0007>"),
    ]


def test_a_level_that_the_layout_does_not_know_has_no_name(published: Context) -> None:
    """NULL rather than a name that could be another token's."""
    published.lake.replace("promotions", published.lake.frame(PROMOTIONS, [{"seq": 9, "tokenizer_version": "v2"}]), Where(equals=(("seq", "9"),)), {})
    short = published.lake.read("tokenizers").withColumn("layout", F.lit(json.dumps({"sources": [{"name": "bill", "levels": LEVELS[:1]}]})))
    short.write.format("delta").mode("overwrite").save(published.lake.path("tokenizers"))
    assert rows(published.spark.sql("SELECT level, token FROM user_tokens_long ORDER BY level")) == [(1, "<shared_1_0000>"), (2, None)]
    assert rows(published.spark.sql("SELECT tokens, text FROM user_token_sequences")) == [(2, None)]


def test_in_layout_width_a_level_has_shared_and_own_names(published: Context) -> None:
    """Codes below shared_size are shared; the usage of the two codebooks of a level is counted apart."""
    wide = [{"level": level, "shared_size": 4, "codebook_size": 400} for level in (1, 2)]
    layout = json.dumps({"sources": [{"name": s, "levels": wide} for s in SOURCES]})
    published.lake.read("tokenizers").withColumn("layout", F.lit(layout)).write.format("delta").mode("overwrite").save(published.lake.path("tokenizers"))
    found = published.spark.sql("SELECT level, code, token FROM user_tokens_long WHERE source = 'bill' AND user_id IN ('a', 'b') AND ds >= '2026-01-01'")
    assert sorted(rows(found)) == [(1, 1, "<shared_1_0001>"), (1, 3, "<shared_1_0003>"), (2, 0, "<shared_2_0000>"), (2, 391, "<bill_2_0391>")]
    usage = "SELECT shared, codebook_size, used, slices FROM codebook_usage WHERE tokenizer_version = 'v1' AND source = 'bill' AND level = 2 ORDER BY shared"
    assert rows(published.spark.sql(usage)) == [(False, 396, 1, 1), (True, 4, 3, 3)]


def test_sequences_hold_90_days_by_day_then_by_the_catalogs_order(published: Context) -> None:
    """The 90 days end with the last published day: 2025-10-05 to 2026-01-02, so neither of b's old days is in it."""
    found = published.spark.table("user_token_sequences").orderBy("user_id")
    assert [(r["user_id"], r["as_of"], r["days"], r["slices"], r["tokens"]) for r in found.collect()] == [
        ("a", date(2026, 1, 2), 2, 3, 6),
        ("b", date(2026, 1, 2), 1, 1, 2),
    ]
    first = found.first()
    assert first is not None
    assert [tuple(s) for s in first["sequence"]] == [
        (date(2026, 1, 1), "bill", [1, 391]),
        (date(2026, 1, 1), "search", [1, 7]),
        (date(2026, 1, 2), "search", [2, 7]),
    ]


def test_the_day_90_days_before_is_out_and_the_next_is_in(published: Context) -> None:
    """89 days back is the first of 90."""
    extra = published.lake.read("user_tokens").where("user_id = 'b' AND ds = DATE'2025-10-04'")
    for ds in ("2025-10-04", "2025-10-05"):
        published.lake.append("user_tokens", extra.withColumns({"ds": F.lit(ds).cast("date"), "user_id": F.lit("c")}), {})
    found = published.spark.sql("SELECT sequence.ds FROM user_token_sequences WHERE user_id = 'c'")
    assert rows(found) == [([date(2025, 10, 5)],)]


def test_codebook_usage_counts_used_dead_and_perplexity(published: Context) -> None:
    """bill, level 1 of v1: codes 1, 3, 2, 2, so 3 of 4 used and perplexity 2 to the power 1.5."""
    query = "SELECT codebook_size, used, dead, round(perplexity, 6), slices FROM codebook_usage WHERE tokenizer_version = '{}' AND source = '{}' AND level = {}"
    assert rows(published.spark.sql(query.format("v1", "bill", 1))) == [(4, 3, 1, round(2**1.5, 6), 4)]
    assert rows(published.spark.sql(query.format("v1", "search", 2))) == [(400, 1, 399, 1.0, 2)]
    assert rows(published.spark.sql(query.format("v2", "search", 2))) == [(400, 0, 400, None, 0)]
    assert published.spark.table("codebook_usage").count() == 2 * len(SOURCES) * len(LEVELS)


@pytest.mark.parametrize("view", create_views.VIEWS)
def test_every_view_and_column_has_a_comment(published: Context, view: str) -> None:
    """An analyst's DESCRIBE answers without a wiki."""
    described = published.spark.sql(f"DESCRIBE EXTENDED {view}").collect()
    columns = described[: [row["col_name"] for row in described].index("")]
    assert columns
    assert all(row["comment"] for row in columns)
    assert any(row["col_name"] == "Comment" and row["data_type"] for row in described)


def test_nothing_is_current_before_the_first_promotion(ready: Context) -> None:
    """Empty views, not an error."""
    create_views.run(ready)
    for view in create_views.VIEWS:
        assert ready.spark.table(view).count() == 0


def test_another_lakehouse_in_the_same_session_takes_the_names_over(published: Context, ready_elsewhere: Context) -> None:
    """SQL answers from the lakehouse registered last; the first one's files stay."""
    create_views.run(ready_elsewhere)
    assert published.spark.table("user_tokens").count() == 0
    create_views.run(published)
    assert published.spark.table("user_tokens").count() == len(TOKENS)


@pytest.fixture
def ready_elsewhere(spark: SparkSession, default_catalog: Catalog, empty_lake: Path, tmp_path: Path) -> Context:
    """An empty lakehouse whose path has a space and a percent sign."""
    root = tmp_path / "else where%20"
    shutil.copytree(empty_lake, root)
    return Context(spark=spark, lake=Lakehouse(spark, str(root)), catalog=default_catalog, input_root="", run_id="r")


def test_a_lasting_metastore_is_not_repointed(published: Context, ready_elsewhere: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where entries outlive the session, a name that is taken is a refusal."""
    monkeypatch.setattr(create_views, "IN_MEMORY", "other")
    with pytest.raises(BadInput, match=r"the metastore has it at .*choose another schema"):
        create_views.run(ready_elsewhere)


def test_before_init_the_message_says_init(context: Context) -> None:
    """No catalog entry is made for a lakehouse that is not there."""
    with pytest.raises(BadInput, match="u2qt init"):
        create_views.run(context)


def test_a_catalog_of_one_source_without_profile_has_the_same_views(spark: SparkSession, default_catalog: Catalog, tmp_path: Path) -> None:
    """The SQL is complete for any number of sources; one is where commas go wrong."""
    one = default_catalog.model_copy(update={"sources": default_catalog.sources[:1]})
    context = Context(spark=spark, lake=Lakehouse(spark, str(tmp_path / "one")), catalog=one, input_root="", run_id="r")
    init_lakehouse.run(context)
    create_views.run(context)
    assert spark.table("user_tokens_current").columns[-2:] == ["run_id", "bill_codes"]
    assert [spark.table(view).count() for view in create_views.VIEWS] == [0, 0, 0, 0]


def test_only_checked_names_are_written_into_sql() -> None:
    """A source name that could end a literal never arrives."""
    with pytest.raises(IdentifierError):
        create_views.complete("'{source}'", ("x', (SELECT 1), '",))


def test_templates_hold_no_other_placeholder() -> None:
    """`{source}` is all that is substituted."""
    for view in create_views.VIEWS:
        sql = create_views.view_sql(view, ("bill", "app"))
        assert "{" not in sql
        assert re.match(rf"CREATE OR REPLACE VIEW {view} \(", sql)


def test_the_printed_ddl_makes_the_same_tables_and_views(published: Context) -> None:
    """Run in an empty schema, as a site's administrator would."""
    spark = published.spark
    spark.sql("CREATE DATABASE site")
    spark.sql("USE site")
    try:
        script = create_views.ddl(published.catalog, published.lake.root)
        statements = create_views.statements(published.catalog, published.lake.root)
        assert script == "".join(f"{s};\n\n" for s in statements)
        for statement in statements:
            spark.sql(statement)
        made = {row.tableName for row in spark.sql("SHOW TABLES IN site").collect() if not row.isTemporary}
        assert made >= {t.name for t in lakehouse.tables(published.catalog)} | set(create_views.VIEWS)
        assert spark.sql("SELECT token FROM site.user_tokens_long WHERE code = 391").collect()[0][0] == "<bill_2_0391>"
    finally:
        spark.sql("USE default")
        spark.sql("DROP DATABASE site CASCADE")


def test_ddl_quotes_paths(default_catalog: Catalog) -> None:
    """Apostrophes and backslashes in a root stay inside the literal."""
    first = create_views.statements(default_catalog, "/data/o'brien\\x/")[0]
    assert first == "CREATE TABLE IF NOT EXISTS `source_bill` USING delta LOCATION '/data/o\\'brien\\\\x/source_bill'"
