"""replay_quarantine: quarantined rows of a delivery are validated again, after a fix of the declaration.

Reads and writes quarantine_<name>, source_<name> and deliveries. Key: one distinct raw row of one delivery.
Idempotent: rows that became clean are added unless the table has them already. Works under the day's lock, as a validation does;
one that is cut short leaves the source's day `running`, which nothing is built of until the day is validated.
"""

from functools import partial

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs.changed_days import being_validated, held_days
from jobs.context import Context
from jobs.delivery_gates import BLOCKED, PASSED, RUNNING, announce, null_counts, refusals
from jobs.delta_tables import Where, on_days
from jobs.errors import BadInput, GateRefused
from jobs.forgotten_ids import marked, required_key
from jobs.ledger import StageRecord, record_stage
from jobs.raw_input import needed_columns
from jobs.source_columns import require_its_columns
from jobs.validation_rules import checked_rows, clean_rows, quarantined_rows
from schemas.catalog import Source
from schemas.deliveries import DELIVERIES
from schemas.keys import Days
from schemas.quarantine import quarantine_table_name
from schemas.source_events import source_table_name

STAGE = "replay_quarantine"


def as_raw(quarantined: DataFrame, names: list[str]) -> DataFrame:
    """Quarantined rows in the form of raw input: the map of raw values as a struct again."""
    struct = F.struct(*(F.col("raw").getItem(name).alias(name) for name in names))
    return quarantined.select(struct.alias("raw"), "delivered_ds", "delivery_id")


def absent_columns(source: Source, names: list[str], delivery_id: str, days: Days) -> list[str]:
    """Columns that the declaration reads now and the quarantined rows don't have: null where a JSON field may be. Raises `BadInput` for others."""
    absent = [name for name in needed_columns(source) if name not in names]
    nullable = {c.source_column for c in source.columns if c.nullable} if source.input.format == "json" else set()
    missing = [name for name in absent if name not in nullable]
    if missing:
        raise BadInput(
            f"delivery {delivery_id}: its quarantined rows have no column {', '.join(missing)}, found {', '.join(names)}; "
            f"correct `from` in sources/{source.name}.yaml, or have it delivered again and run `u2qt validate --ds {days}`"
        )
    return absent


def not_yet_in(rows: DataFrame, table: DataFrame) -> DataFrame:
    """Rows that `table` does not hold, compared in all columns and null-safely."""
    names = [name for name in rows.columns if name != "run_id"]
    same = [F.col(f"n.`{name}`").eqNullSafe(F.col(f"t.`{name}`")) for name in names]
    return rows.alias("n").join(table.alias("t"), on=same, how="left_anti")


def run(context: Context, delivery_id: str) -> dict[str, int]:
    """Rows released and rows still refused.

    Raises `BadInput` for an unknown delivery, `GateRefused` where its day's validation did not end or the gate blocks.
    """
    known = F.col("delivery_id") == F.lit(delivery_id)
    found = context.lake.read_declared(DELIVERIES).where(known).select("source", "delivered_ds").collect()
    if not found:
        raise BadInput(f"delivery {delivery_id!r}: not in table deliveries; `u2qt quarantine show` lists those with refused rows")
    require_its_columns(context)
    totals = {"released": 0, "refused": 0}
    for source, ds in found:
        days = Days(ds, ds)
        with held_days(context.lake, days), record_stage(context, STAGE, days) as record, being_validated(context.lake, days):
            same_day = (F.col("source") == F.lit(source)) & (F.col("delivered_ds") == F.lit(ds))
            _replay(context, context.catalog.source(source), context.lake.read_declared(DELIVERIES).where(same_day).collect(), delivery_id, days, record)
            for name in totals:
                totals[name] += record.rows[name]
    return totals


def _replay(context: Context, source: Source, deliveries: list[Row], delivery_id: str, days: Days, record: StageRecord) -> None:
    """`deliveries`: all of the source's day, as they are now that no other process works on it."""
    if any(delivery.gate == RUNNING for delivery in deliveries):
        raise GateRefused(f"delivery {delivery_id}: the last validation of {days} did not end; run `u2qt validate --ds {days}`, which judges all its rows")
    table, refused = source_table_name(source.name), quarantine_table_name(source.name)
    where = Where(days=days, day_column="delivered_ds")
    metadata = {"run_id": context.run_id, "stage": record.stage}
    held = on_days(context.lake.read(refused), days, "delivered_ds").localCheckpoint()
    mine = held.where(F.col("delivery_id") == F.lit(delivery_id))
    names = [row.name for row in mine.select(F.explode(F.map_keys("raw")).alias("name")).distinct().orderBy("name").collect()]
    if not names:
        record.rows.update(released=0, refused=0)
        return
    names += absent_columns(source, names, delivery_id, days)
    run_id = F.lit(context.run_id).alias("run_id")
    key = required_key(context)
    checked = marked(checked_rows(as_raw(mine, names), source, context.catalog), context, key).localCheckpoint()
    kept = checked.where(~F.col("forgotten"))
    released = not_yet_in(clean_rows(kept, source), on_days(context.lake.read(table), days, "delivered_ds")).select("*", run_id)
    others = held.where(F.col("delivery_id") != F.lit(delivery_id))
    still = quarantined_rows(kept).select("*", run_id).unionByName(others)
    announce(context, days, STAGE, source.name)
    record.written[table] = context.lake.append(table, released, metadata)
    record.written[refused] = context.lake.replace(refused, still, where, metadata)
    _recount(context, source, deliveries, delivery_id, days, record, checked.where("forgotten").count())


def _recount(context: Context, source: Source, deliveries: list[Row], delivery_id: str, days: Days, record: StageRecord, theirs: int) -> None:
    """The delivery's outcomes as the tables now have them, `theirs` rows of forgotten users gone; the gate is that of a validation."""
    table, refused = source_table_name(source.name), quarantine_table_name(source.name)
    clean, left = (
        on_days(context.lake.read(name, record.written[name]), days, "delivered_ds").where(F.col("delivery_id") == F.lit(delivery_id))
        for name in (table, refused)
    )
    counted, quarantined = clean.agg(F.count(F.lit(1)).alias("rows"), null_counts(source, F.lit(True)).alias("nulls")).first(), left.count()
    assert counted is not None, "an aggregate without groups has one row"
    outcome = partial(_outcome, clean=counted["rows"], nulls=counted["nulls"], quarantined=quarantined, theirs=theirs)
    rows = [outcome(delivery) if delivery.delivery_id == delivery_id else delivery for delivery in deliveries]
    before = next(delivery.clean for delivery in deliveries if delivery.delivery_id == delivery_id)
    record.rows.update(released=counted["rows"] - before, refused=quarantined)
    lines = refusals(context, source, days, rows, record.written[table]).get(days.first, [])
    written = context.lake.frame(DELIVERIES, [row.asDict() | {"gate": BLOCKED if lines else PASSED, "run_id": context.run_id} for row in rows])
    where = Where(days=days, day_column="delivered_ds", equals=(("source", source.name),))
    record.written["deliveries"] = context.lake.replace("deliveries", written, where, {"run_id": context.run_id, "stage": record.stage})
    if lines:
        raise GateRefused("\n".join(lines))


def _outcome(delivery: Row, clean: int, nulls: dict[str, int], quarantined: int, theirs: int) -> Row:
    forgotten = (delivery.forgotten or 0) + theirs
    duplicates = delivery.rows_in - clean - quarantined - forgotten
    now = {"clean": clean, "nulls": nulls, "quarantined": quarantined, "forgotten": forgotten, "duplicates": duplicates}
    return Row(**(delivery.asDict() | now))
