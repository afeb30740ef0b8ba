"""replay_quarantine: quarantined rows of a delivery are validated again, after a fix of the declaration.

Reads and writes quarantine_<name>, source_<name> and deliveries. Key: one distinct raw row of one delivery.
Idempotent: rows that became clean are added unless the table has them already, so that a replay cut short can be repeated.
"""

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from jobs import quality
from jobs.context import Context
from jobs.delta_tables import Where
from jobs.errors import BadInput, GateRefused
from jobs.forgotten_ids import marked, required_key
from jobs.ledger import StageRecord, record_stage
from jobs.validation_rules import checked_rows, clean_rows, quarantined_rows
from schemas.catalog import Source
from schemas.deliveries import DELIVERIES
from schemas.keys import Days
from schemas.quarantine import quarantine_table_name
from schemas.source_events import source_table_name


def as_raw(quarantined: DataFrame, names: list[str]) -> DataFrame:
    """Quarantined rows in the form of raw input: the map of raw values as a struct again."""
    struct = F.struct(*(F.col("raw").getItem(name).alias(name) for name in names))
    return quarantined.select(struct.alias("raw"), "delivered_ds", "delivery_id")


def not_yet_in(rows: DataFrame, table: DataFrame) -> DataFrame:
    """Rows that `table` does not hold, compared in all columns and null-safely."""
    names = [name for name in rows.columns if name != "run_id"]
    same = [F.col(f"n.`{name}`").eqNullSafe(F.col(f"t.`{name}`")) for name in names]
    return rows.alias("n").join(table.alias("t"), on=same, how="left_anti")


def run(context: Context, delivery_id: str) -> dict[str, int]:
    """Rows released and rows still refused. Raises `BadInput` when no quarantine knows the delivery."""
    deliveries = context.lake.read_declared(DELIVERIES).where(F.col("delivery_id") == F.lit(delivery_id)).collect()
    if not deliveries:
        raise BadInput(f"delivery {delivery_id!r}: not in table deliveries; `u2qt quarantine show` lists those with refused rows")
    totals = {"released": 0, "refused": 0}
    for delivery in deliveries:
        days = Days(delivery.delivered_ds, delivery.delivered_ds)
        with record_stage(context, "replay_quarantine", days) as record:
            _replay(context, context.catalog.source(delivery.source), delivery, days, record)
            for name in totals:
                totals[name] += record.rows[name]
    return totals


def _replay(context: Context, source: Source, delivery: Row, days: Days, record: StageRecord) -> None:
    table, refused = source_table_name(source.name), quarantine_table_name(source.name)
    where = Where(days=days, day_column="delivered_ds")
    metadata = {"run_id": context.run_id, "stage": record.stage}
    held = context.lake.read(refused).where(F.col("delivered_ds") == F.lit(delivery.delivered_ds)).localCheckpoint()
    mine = held.where(F.col("delivery_id") == F.lit(delivery.delivery_id))
    names = [row.name for row in mine.select(F.explode(F.map_keys("raw")).alias("name")).distinct().orderBy("name").collect()]
    if not names:
        record.rows.update(released=0, refused=0)
        return
    run_id = F.lit(context.run_id).alias("run_id")
    key = required_key(context)
    checked = marked(checked_rows(as_raw(mine, names), source, context.catalog), context, key).localCheckpoint()
    kept = checked.where(~F.col("forgotten"))
    existing = context.lake.read(table).where(F.col("delivered_ds") == F.lit(delivery.delivered_ds))
    released = not_yet_in(clean_rows(kept, source), existing).select("*", run_id)
    record.written[table] = context.lake.append(table, released, metadata)
    others = held.where(F.col("delivery_id") != F.lit(delivery.delivery_id))
    still = quarantined_rows(kept).select("*", run_id).unionByName(others)
    record.written[refused] = context.lake.replace(refused, still, where, metadata)
    _recount(context, source, delivery, days, record, checked.where("forgotten").count())


def _recount(context: Context, source: Source, delivery: Row, days: Days, record: StageRecord, theirs: int) -> None:
    """The delivery's outcomes as the tables now have them, `theirs` rows of forgotten users gone; the gate is the suite's on the written version."""
    table, refused = source_table_name(source.name), quarantine_table_name(source.name)
    delivered = F.col("delivered_ds") == F.lit(delivery.delivered_ds)
    mine = delivered & (F.col("delivery_id") == F.lit(delivery.delivery_id))
    written = context.lake.read(table, record.written[table]).where(delivered)
    clean, quarantined = written.where(mine).count(), context.lake.read(refused, record.written[refused]).where(mine).count()
    record.rows.update(released=clean - delivery.clean, refused=quarantined)
    result = quality.evaluate(written, quality.load_suite(context.catalog.suites[source.name], f"expectations/sources/{source.name}.json"))
    gate = "blocked" if result.failures else "passed"
    rows = context.lake.read("deliveries").where((F.col("source") == source.name) & delivered).localCheckpoint()
    forgotten = (delivery.forgotten or 0) + theirs
    duplicates = F.when(mine, F.lit(delivery.rows_in - clean - quarantined - forgotten)).otherwise(F.col("duplicates"))
    changed = rows.select(
        "source",
        "delivered_ds",
        "delivery_id",
        "rows_in",
        F.when(mine, F.lit(clean)).otherwise(F.col("clean")).cast("bigint").alias("clean"),
        F.when(mine, F.lit(quarantined)).otherwise(F.col("quarantined")).cast("bigint").alias("quarantined"),
        duplicates.cast("bigint").alias("duplicates"),
        F.lit(gate).alias("gate"),
        F.lit(context.run_id).alias("run_id"),
        F.when(mine, F.lit(forgotten)).otherwise(F.col("forgotten")).cast("bigint").alias("forgotten"),
    )
    where = Where(days=days, day_column="delivered_ds", equals=(("source", source.name),))
    record.written["deliveries"] = context.lake.replace("deliveries", changed, where, {"run_id": context.run_id, "stage": record.stage})
    if result.failures:
        raise GateRefused("\n".join(f"source {source.name}, {days}: {failure}" for failure in result.failures))
