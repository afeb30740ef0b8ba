"""write_report: one self-contained HTML page about one day.

Reads deliveries, quarantine_<name>, user_features, staged_user_tokens, user_tokens, audits, tokenizers, promotions and runs,
each at the version the page names. Writes a file, no table and no ledger row: the same lakehouse gives the same bytes.
All counting is Spark's; the driver sees a few rows per source and level, and `SAMPLES` users without id or content.
"""

import json
import os
from datetime import date
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as F

from jobs import report_pictures as pictures
from jobs.context import Context
from jobs.delta_tables import on_days
from jobs.errors import BadInput, Infrastructure
from jobs.report_page import (
    HISTOGRAM_BINS,
    Activity,
    Audit,
    DayReport,
    Delivery,
    LevelUsage,
    SampleSlice,
    SampleUser,
    StageRow,
    TokenizerInfo,
    render,
    row_hash,
)
from schemas.catalog import Catalog
from schemas.keys import Days
from schemas.quarantine import quarantine_table_name
from schemas.user_tokens import codes_column

TABLES = ("audits", "deliveries", "promotions", "runs", "staged_user_tokens", "tokenizers", "user_features", "user_tokens")
TOP_REASONS = 5
SAMPLES = 6
LAST_STAGES = 40


def delivery_totals(deliveries: DataFrame) -> DataFrame:
    """One row per source; blocked when any of its deliveries is."""
    outcomes = [F.sum(name).alias(name) for name in ("rows_in", "clean", "quarantined", "duplicates")]
    return deliveries.groupBy("source").agg(*outcomes, F.bool_or(F.col("gate") == "blocked").alias("blocked"))


def top_reasons(quarantined: DataFrame) -> DataFrame:
    """The `TOP_REASONS` most frequent codes per source; ties by code."""
    order = Window.partitionBy("source").orderBy(F.desc("rows"), "reason")
    counted = quarantined.select("source", F.explode("reasons").alias("reason")).groupBy("source", "reason").agg(F.count("*").alias("rows"))
    return counted.withColumn("place", F.row_number().over(order)).where(F.col("place") <= TOP_REASONS).drop("place")


def activity_counts(user_features: DataFrame, sources: tuple[str, ...]) -> DataFrame:
    """Users and events per source and histogram bin; bin 0 holds the users who did not use the source."""
    pairs = F.explode(F.array(*(F.struct(F.lit(s).alias("source"), F.col(f"{s}_count").alias("events")) for s in sources)))
    each = user_features.select(pairs.alias("pair")).select("pair.*")
    bins = F.least("events", F.lit(HISTOGRAM_BINS)).alias("bin")
    return each.groupBy("source", bins).agg(F.count("*").alias("users"), F.sum("events").alias("events"))


def code_multiplicities(tokens: DataFrame, codebook_sizes: dict[int, int], sources: tuple[str, ...]) -> DataFrame:
    """Per source and level, how many codes have how many slices: all that usage pictures need, whatever the codebook's size.

    `inside` is false for codes that the level's codebook doesn't have.
    """
    pairs = F.explode(F.array(*(F.struct(F.lit(s).alias("source"), F.col(codes_column(s)).alias("codes")) for s in sources)))
    sizes = F.create_map(*(F.lit(value) for value in chain.from_iterable(codebook_sizes.items())))
    codes = tokens.select(pairs.alias("pair")).select("pair.source", F.posexplode("pair.codes").alias("position", "code"))
    level = (F.col("position") + 1).alias("level")
    counted = codes.groupBy("source", level, "code").agg(F.count("*").alias("slices"))
    inside = (F.col("code") >= 0) & (F.col("code") < F.coalesce(F.element_at(sizes, F.col("level")), F.lit(0)))
    return counted.groupBy("source", "level", inside.alias("inside"), "slices").agg(F.count("*").alias("codes"))


def sample_slices(user_features: DataFrame, catalog: Catalog) -> DataFrame:
    """`SAMPLES` users by smallest row hash: their counts and the lengths of their texts in characters."""
    lengths = [F.length(F.col(f"{s.name}_text").cast("string")).alias(f"{s.name}_characters") for s in catalog.events]
    counts = [f"{s.name}_count" for s in catalog.sources]
    return user_features.select("row_hash", "user_id", *counts, *lengths).orderBy("row_hash", "user_id").limit(SAMPLES).drop("user_id")


def run(context: Context, ds: date, out: Path, tokenizer_version: str | None = None) -> Path:
    """Writes the page to `out`, whole or not at all. Without a version: the promoted tokenizer's, where there is one."""
    if out.is_dir():
        raise BadInput(f"--out {out}: found a folder, expected a file such as {out / f'{ds}.html'}")
    page = render(day_report(context, ds, tokenizer_version))
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise Infrastructure(f"--out {out}: can't be written ({error.strerror}); give a file in a folder that this user may write") from None
    return out


def day_report(context: Context, ds: date, tokenizer_version: str | None = None) -> DayReport:
    """Everything the page shows. Raises `BadInput` for a day without anything, or an unknown tokenizer."""
    lake, day = context.lake, Days(ds, ds)
    versions = {table: lake.version(table) for table in TABLES}
    tables = {table: lake.read(table, version) for table, version in versions.items()}
    tokenizer, codebooks = _tokenizer(tables, tokenizer_version)
    version = tokenizer.version if tokenizer else None
    features = on_days(tables["user_features"], day)
    staged, published = (_of(on_days(tables[name], day), version) for name in ("staged_user_tokens", "user_tokens"))
    stages = _stages(tables["runs"], ds)
    deliveries = _deliveries(context, tables["deliveries"], day)
    report_counts = {"users": features.count(), "encoded": staged.count(), "published": published.count()}
    if not stages and not deliveries and not any(report_counts.values()):
        raise BadInput(f"--ds {ds}: nothing of this day in {lake.root}, expected a day that was run; run `u2qt run-day --ds {ds}` first")
    usage_table = "user_tokens" if report_counts["published"] else "staged_user_tokens"
    tokens = published if usage_table == "user_tokens" else staged
    return DayReport(
        ds=ds,
        catalog=context.catalog.name,
        deliveries=deliveries,
        **report_counts,
        activity=_activity(features, context.catalog) if report_counts["users"] else (),
        tokenizer=tokenizer,
        usage=_usage(tokens, codebooks, context.catalog) if codebooks else (),
        usage_table=usage_table,
        audit=_audit(_of(on_days(tables["audits"], day), version), tables["runs"]),
        samples=_samples(features, tokens, codebooks, context.catalog),
        stages=stages,
        table_versions=tuple(sorted(versions.items())),
    )


def _of(rows: DataFrame, version: str | None) -> DataFrame:
    return rows.where(F.col("tokenizer_version") == F.lit(version)) if version else rows.limit(0)


def _tokenizer(tables: dict[str, DataFrame], wanted: str | None) -> tuple[TokenizerInfo | None, list[dict[str, Any]]]:
    """The tokenizer to report on and its levels, as layout.json lists them."""
    last = tables["promotions"].orderBy(F.desc("seq")).first()
    promoted = last.tokenizer_version if last else None
    if wanted is None and promoted is None:
        return None, []
    row = tables["tokenizers"].where(F.col("tokenizer_version") == F.lit(wanted or promoted)).first()
    if row is None:
        raise BadInput(f"--tokenizer-version {wanted or promoted}: not registered in this lakehouse; `u2qt tokenizer list` shows those that are")
    info = TokenizerInfo(
        version=row.tokenizer_version,
        fingerprint=row.fingerprint,
        trained_from=row.trained_from,
        trained_through=row.trained_through,
        promoted=row.tokenizer_version == promoted,
    )
    return info, json.loads(row.layout)["levels"]


def _deliveries(context: Context, deliveries: DataFrame, day: Days) -> tuple[Delivery, ...]:
    totals = {row.source: row for row in delivery_totals(on_days(deliveries, day, "delivered_ds")).collect()}
    if not totals:
        return ()
    quarantined = [
        on_days(context.lake.read(quarantine_table_name(s.name)), day, "delivered_ds").select(F.lit(s.name).alias("source"), "reasons")
        for s in context.catalog.sources
    ]
    reasons: dict[str, list[tuple[str, int]]] = {}
    for row in top_reasons(reduce(DataFrame.unionByName, quarantined)).orderBy("source", F.desc("rows"), "reason").collect():
        reasons.setdefault(row.source, []).append((row.reason, row.rows))
    known = [s.name for s in context.catalog.sources if s.name in totals]
    return tuple(Delivery(**totals[name].asDict(), reasons=tuple(reasons.get(name, ()))) for name in known)


def _activity(features: DataFrame, catalog: Catalog) -> tuple[Activity, ...]:
    counted = activity_counts(features, tuple(s.name for s in catalog.sources)).collect()
    bins = {(row.source, row.bin): row for row in counted if row.bin}
    return tuple(
        Activity(
            source=s.name,
            kind=s.kind,
            users=sum(row.users for (source, _), row in bins.items() if source == s.name),
            events=sum(row.events for (source, _), row in bins.items() if source == s.name),
            histogram=tuple(bins[s.name, n].users if (s.name, n) in bins else 0 for n in range(1, HISTOGRAM_BINS + 1)),
        )
        for s in catalog.sources
    )


def _usage(tokens: DataFrame, levels: list[dict[str, Any]], catalog: Catalog) -> tuple[LevelUsage, ...]:
    sizes = {level["level"]: level["codebook_size"] for level in levels}
    rows = code_multiplicities(tokens, sizes, tuple(s.name for s in catalog.sources)).collect()
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.source, row.level), []).append(row)
    pairs = ((order, s.name, level) for order, s in enumerate(catalog.sources) for level in levels)
    return tuple(_level_usage(order, name, level, groups.get((name, level["level"]), [])) for order, name, level in pairs) if rows else ()


def _level_usage(order: int, source: str, level: dict[str, Any], rows: list[Row]) -> LevelUsage:
    inside = [(row.slices, row.codes) for row in rows if row.inside]
    slices = sum(row.slices * row.codes for row in rows)
    within = sum(count * codes for count, codes in inside)
    return LevelUsage(
        source=source,
        source_order=order,
        level=level["level"],
        shared=level["shared"],
        codebook_size=level["codebook_size"],
        slices=slices,
        used=sum(codes for _, codes in inside),
        outside=slices - within,
        perplexity=pictures.perplexity(inside),
        top_share=max((count for count, _ in inside), default=0) / within if within else 0.0,
        curve=pictures.ranked_curve(inside, level["codebook_size"]),
    )


def _audit(audits: DataFrame, runs: DataFrame) -> Audit | None:
    """The audit of the newest stage; of several, the one that ran last by the ledger."""
    ran = runs.where(F.col("stage") == "audit_tokens").groupBy("run_id").agg(F.max("started_at").alias("ran_at"))
    order = (F.desc("staged_version"), F.desc_nulls_last("ran_at"), F.desc("run_id"))
    found = audits.join(ran, on="run_id", how="left").orderBy(*order).collect()
    if not found:
        return None
    newest = found[0]
    names = ("success", "evaluated", "rows", "staged_version", "suite_hash", "failures")
    return Audit(**{name: newest[name] for name in names}, audits=len(found))


def _samples(features: DataFrame, tokens: DataFrame, levels: list[dict[str, Any]], catalog: Catalog) -> tuple[SampleUser, ...]:
    users = sample_slices(features, catalog).collect()
    if not users:
        return ()
    columns = [codes_column(s.name) for s in catalog.sources]
    picked = tokens.where(F.col("row_hash").isin([user.row_hash for user in users])).select("row_hash", *columns)
    codes = {row.row_hash: row.asDict() for row in picked.collect()}
    return tuple(SampleUser(row_hash=row_hash(u.row_hash), slices=_slices(u.asDict(), codes.get(u.row_hash, {}), levels, catalog)) for u in users)


def _slices(user: dict[str, Any], codes: dict[str, Any], levels: list[dict[str, Any]], catalog: Catalog) -> tuple[SampleSlice, ...]:
    """The sources that the user used that day."""
    return tuple(
        SampleSlice(
            source=s.name,
            kind=s.kind,
            events=user[f"{s.name}_count"],
            characters=user.get(f"{s.name}_characters"),
            tokens=tuple((code, _token_name(s.name, level, code)) for level, code in zip(levels, codes.get(codes_column(s.name)) or (), strict=False)),
        )
        for s in catalog.sources
        if user[f"{s.name}_count"]
    )


def _token_name(source: str, level: dict[str, Any], code: int) -> str:
    """As the checkpoint's vocabulary names it; also for codes that a failed audit found outside the codebook."""
    return f"<{'shared' if level['shared'] else source}_{level['level']}_{code:04d}>"


def _stages(runs: DataFrame, ds: date) -> tuple[StageRow, ...]:
    of_day = runs.where((F.col("ds_from") <= F.lit(ds)) & (F.col("ds_to") >= F.lit(ds)))
    last = of_day.orderBy(F.desc("started_at"), F.desc("stage"), F.desc("run_id")).limit(LAST_STAGES)
    columns = ("stage", "status", "seconds", "rows", "run_id", "detail", F.date_format("started_at", "yyyy-MM-dd HH:mm:ss").alias("started"))
    return tuple(
        StageRow(
            stage=row.stage,
            status=row.status,
            started=row.started,
            seconds=row.seconds,
            rows=tuple(sorted(row.rows.items())),
            run_id=row.run_id or "",
            detail=error_text(row.detail),
        )
        for row in reversed(last.select(*columns).collect())
    )


def error_text(detail: str | None) -> str:
    """The error that the ledger noted, or nothing."""
    notes = json.loads(detail) if detail else {}
    return str(notes.get("error", "")) if isinstance(notes, dict) else ""
