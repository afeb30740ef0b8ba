"""write_report: one self-contained HTML page about one day.

Reads deliveries, quarantine_<name>, user_features, staged_user_tokens, user_tokens, audits, tokenizers, runs
and promotions. Writes a file, no table and no ledger row: the same lakehouse gives the same bytes.
All counting is Spark's; the driver sees a few rows per source and level, and a few users without id or content.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs import report_counts as counts
from jobs import report_pictures as pictures
from jobs import show_days
from jobs.context import Context
from jobs.delta_tables import on_days
from jobs.errors import BadInput, Infrastructure
from jobs.ledger_rows import drift_lines, error_text, of_day, of_version, plain_rows
from jobs.registered_tokenizers import find_registered, promoted_version
from jobs.report_model import (
    Activity,
    Audit,
    DayBar,
    DayReport,
    Delivery,
    LevelQuality,
    LevelUsage,
    SampleSlice,
    SampleUser,
    SourceQuality,
    StageRow,
    TokenizerInfo,
)
from jobs.report_page import render, row_hash
from schemas.audits import AUDITS
from schemas.catalog import Catalog
from schemas.deliveries import DELIVERIES
from schemas.keys import Days
from schemas.quarantine import quarantine_table_name
from schemas.user_tokens import codes_column

TABLES = ("audits", "deliveries", "runs", "staged_user_tokens", "user_features", "user_tokens")
Levels = dict[str, list[dict[str, Any]]]  # per source as layout.json lists them


def run(context: Context, ds: date, out: Path, tokenizer_version: str | None = None) -> Path:
    """Writes the page to `out`, whole or not at all. Without a version: the promoted tokenizer's, if there is one."""
    if out.is_dir():
        raise BadInput(f"--out {out}: found a folder, expected a file such as {out / f'{ds}.html'}")
    page = render(day_report(context, ds, tokenizer_version))
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        reason = f"can't be written ({error.strerror}); give a file in a folder that this user may write"
        raise Infrastructure(f"--out {out}: {reason}") from None
    return out


def day_report(context: Context, ds: date, tokenizer_version: str | None = None) -> DayReport:
    """Everything the page shows. Raises `BadInput` for a day without anything, or an unknown tokenizer."""
    lake, day, catalog = context.lake, Days(ds, ds), context.catalog
    versions = {table: lake.version(table) for table in TABLES}
    tables = {table: lake.read(table, version) for table, version in versions.items()}
    tables |= {declared.name: lake.read_declared(declared, versions[declared.name]) for declared in (AUDITS, DELIVERIES)}
    tokenizer, levels, quality = _tokenizer(context, tokenizer_version)
    features = on_days(tables["user_features"], day)
    of_tokenizer = F.col("tokenizer_version") == F.lit(tokenizer.version if tokenizer else None)
    staged, published, audits = (on_days(tables[name], day).where(of_tokenizer) for name in ("staged_user_tokens", "user_tokens", "audits"))
    users, encoded, visible = features.count(), staged.count(), published.count()
    version = tokenizer.version if tokenizer else None
    stages, deliveries = _stages(of_version(of_day(tables["runs"], ds), version)), _deliveries(context, tables["deliveries"], day)
    if not (stages or deliveries or users or encoded or visible):
        way_out = f"expected a day that was run; run `u2qt run-day --ds {ds}` first"
        raise BadInput(f"--ds {ds}: nothing of this day in {lake.root}, {way_out}")
    usage_table, tokens = ("user_tokens", published) if visible else ("staged_user_tokens", staged)
    return DayReport(
        ds=ds,
        catalog=catalog.name,
        deliveries=deliveries,
        users=users,
        activity=_activity(features, catalog) if users else (),
        tokenizer=tokenizer,
        encoded=encoded,
        published=visible,
        quality=quality,
        usage=_usage(tokens, levels, catalog) if visible or encoded else (),
        usage_table=usage_table,
        audit=_audit(audits),
        samples=_samples(features, tokens, levels, catalog) if users else (),
        stages=stages,
        table_versions=tuple(sorted(versions.items())),
        days=tuple(day_bar(line) for line in show_days.day_lines(tables["runs"], tables["deliveries"], tables["audits"], ds, version)),
    )


def day_bar(line: show_days.DayLine) -> DayBar:
    """A day that was refused since its publish is refused, and its users still stand."""
    published = line.users_published or 0
    return DayBar(ds=line.ds, published=published, state="refused" if line.status in show_days.TROUBLED else "done" if published else "missing")


def _tokenizer(context: Context, wanted: str | None) -> tuple[TokenizerInfo | None, Levels, tuple[SourceQuality, ...]]:
    """The tokenizer to report on, its levels and its quality; none where none is named or promoted."""
    promoted = promoted_version(context)
    if wanted is None and promoted is None:
        return None, {}, ()
    found = find_registered(context, wanted)
    info = TokenizerInfo(
        version=found.version,
        fingerprint=found.fingerprint,
        trained_from=found.trained_from,
        trained_through=found.trained_through,
        promoted=found.version == promoted,
    )
    levels = {source["name"]: source["levels"] for source in found.layout["sources"]}
    return info, levels, _qualities(found.metrics)


def _qualities(metrics: Mapping[str, Any]) -> tuple[SourceQuality, ...]:
    """Of each source, then of the shared codebooks as all sources together use them."""
    sources, shared = metrics.get("sources", {}), metrics.get("shared", [])
    together = [_together(shared, sources)] if shared else []
    return (*(_quality(name, measured) for name, measured in sources.items()), *together)


def _together(shared: list[dict[str, Any]], sources: Mapping[str, Any]) -> SourceQuality:
    return SourceQuality(
        source="shared codes, all sources",
        slices=sum(sources[source]["slices"] for source in shared[0]["sources"]),
        unique_sequence_rate=shared[0]["unique_sequence_rate"],
        collision_rate=shared[0]["collision_rate"],
        levels=tuple(_level(found["level"], found["relative_squared_error"], found["codebook_size"], found, found["margin_quantiles"]) for found in shared),
        shared=True,
    )


def _level(level: int, error: float, codes: int, use: Mapping[str, Any], quantiles: list[float]) -> LevelQuality:
    _, margin_p10, margin_p50, _ = quantiles or (None,) * 4
    return LevelQuality(
        level=level,
        error=error,
        codes=codes,
        dead=use["dead_codes"],
        perplexity=use["perplexity"],
        gini=use["gini"],
        margin_p10=margin_p10,
        margin_p50=margin_p50,
    )


def _quality(source: str, measured: dict[str, Any]) -> SourceQuality:
    """From metrics.json."""
    per_level = zip(measured["relative_squared_error"], measured["levels"], measured["margin_quantiles"], strict=True)
    return SourceQuality(
        source=source,
        slices=measured["slices"],
        unique_sequence_rate=measured["unique_sequence_rate"],
        collision_rate=measured["collision_rate"],
        levels=tuple(
            _level(level, error, sum(codebook["codebook_size"] for codebook in use["codebooks"].values()), use, quantiles)
            for level, (error, use, quantiles) in enumerate(per_level, start=1)
        ),
    )


def _deliveries(context: Context, deliveries: DataFrame, day: Days) -> tuple[Delivery, ...]:
    totals = {row.source: row for row in counts.delivery_totals(on_days(deliveries, day, "delivered_ds")).collect()}
    if not totals:
        return ()
    quarantined = [_quarantined(context, source.name, day) for source in context.catalog.sources]
    reasons: dict[str, list[tuple[str, int]]] = {}
    for row in counts.top_reasons(reduce(DataFrame.unionByName, quarantined)).collect():
        reasons.setdefault(row.source, []).append((row.reason, row.rows))
    known = [s.name for s in context.catalog.sources if s.name in totals]
    return tuple(Delivery(**totals[name].asDict(), reasons=tuple(reasons.get(name, ()))) for name in known)


def _quarantined(context: Context, source: str, day: Days) -> DataFrame:
    rows = on_days(context.lake.read(quarantine_table_name(source)), day, "delivered_ds")
    return rows.select(F.lit(source).alias("source"), "reasons")


def _activity(features: DataFrame, catalog: Catalog) -> tuple[Activity, ...]:
    bins: dict[str, dict[int, Row]] = {s.name: {} for s in catalog.sources}
    for row in counts.activity_counts(features, tuple(bins)).where("bin > 0").collect():
        bins[row.source][row.bin] = row
    return tuple(
        Activity(
            source=s.name,
            kind=s.kind,
            users=sum(row.users for row in bins[s.name].values()),
            events=sum(row.events for row in bins[s.name].values()),
            histogram=_histogram(bins[s.name]),
        )
        for s in catalog.sources
    )


def _histogram(bins: dict[int, Row]) -> tuple[int, ...]:
    return tuple(bins[n].users if n in bins else 0 for n in range(1, counts.HISTOGRAM_BINS + 1))


def _usage(tokens: DataFrame, levels: Levels, catalog: Catalog) -> tuple[LevelUsage, ...]:
    sizes = {(source, level["level"]): level["codebook_size"] for source, own in levels.items() for level in own}
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in counts.code_multiplicities(tokens, sizes, tuple(s.name for s in catalog.sources)).collect():
        groups.setdefault((row.source, row.level), []).append(row)
    return tuple(
        _level_usage(order, source.name, level, groups.get((source.name, level["level"]), []))
        for order, source in enumerate(catalog.sources)
        for level in levels.get(source.name, ())
    )


def _level_usage(order: int, source: str, level: dict[str, Any], rows: list[Row]) -> LevelUsage:
    inside = [(row.slices, row.codes) for row in rows if row.inside]
    slices = sum(row.slices * row.codes for row in rows)
    within = sum(slices * codes for slices, codes in inside)
    return LevelUsage(
        source=source,
        source_order=order,
        level=level["level"],
        shared_size=level["shared_size"],
        codebook_size=level["codebook_size"],
        slices=slices,
        used=sum(codes for _, codes in inside),
        outside=slices - within,
        perplexity=pictures.perplexity(inside),
        top_share=max(slices for slices, _ in inside) / within if within else 0.0,
        curve=pictures.ranked_curve(inside, level["codebook_size"]),
    )


def _audit(audits: DataFrame) -> Audit | None:
    """The audit that publishing goes by: the last one of the newest stage that was audited."""
    newest = audits.orderBy(F.desc("staged_version"), F.desc("audited_at"), "run_id")
    found = newest.drop("ds", "tokenizer_version", "audited_at", "staged_files", "run_id").collect()
    if not found:
        return None
    facts = found[0].asDict()
    drift, blocked = drift_lines(facts.pop("drift")), bool(facts.pop("drift_blocked"))
    return Audit(**facts, audits=len(found), drift=drift, blocked=blocked)


def _samples(features: DataFrame, tokens: DataFrame, levels: Levels, catalog: Catalog) -> tuple[SampleUser, ...]:
    users = [row.asDict() for row in counts.sample_slices(features, catalog).collect()]
    columns = [codes_column(s.name) for s in catalog.sources]
    picked = tokens.where(F.col("row_hash").isin([user["row_hash"] for user in users])).select("row_hash", *columns)
    codes = {row.row_hash: row.asDict() for row in picked.collect()}
    return tuple(_sample(user, codes.get(user["row_hash"], {}), levels, catalog) for user in users)


def _sample(user: dict[str, Any], codes: dict[str, Any], levels: Levels, catalog: Catalog) -> SampleUser:
    """The slices of the sources that the user used that day."""
    slices = tuple(
        SampleSlice(
            source=s.name,
            kind=s.kind,
            events=user[f"{s.name}_count"],
            characters=user.get(f"{s.name}_characters"),
            tokens=_tokens(s.name, codes.get(codes_column(s.name)) or (), levels.get(s.name, ())),
        )
        for s in catalog.sources
        if user[f"{s.name}_count"]
    )
    return SampleUser(row_hash=row_hash(user["row_hash"]), slices=slices)


def _tokens(source: str, codes: Sequence[int], levels: Sequence[dict[str, Any]]) -> tuple[tuple[int, str], ...]:
    return tuple((code, token_name(source, position, code, levels)) for position, code in enumerate(codes))


def token_name(source: str, position: int, code: int, levels: Sequence[dict[str, Any]]) -> str:
    """As the checkpoint's vocabulary names it; also for a code outside the codebook, as a failed audit finds them."""
    shared = position < len(levels) and code < levels[position]["shared_size"]
    return f"<{'shared' if shared else source}_{position + 1}_{code:04d}>"


def _stages(runs: DataFrame) -> tuple[StageRow, ...]:
    return tuple(
        StageRow(
            stage=row.stage,
            status=row.status,
            started=row.started,
            seconds=row.seconds,
            rows=plain_rows(row.rows),
            days=row.days,
            run_id=row.run_id or "",
            detail=error_text(row.detail),
        )
        for row in reversed(counts.last_stages(runs).collect())
    )


if __name__ == "__main__":
    from jobs.cli import submit

    submit("report")
