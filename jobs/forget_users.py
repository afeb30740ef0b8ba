"""forget_users: removes users from every table, every earlier version and every file of the lakehouse, and refuses them from then on.

Reads the ids to forget; writes `forgotten`, every table with ids, `deliveries`, `runs`. Key: one id. Idempotent: what is removed
already is not there to be removed again, so a run that was cut short is repeated. Needs the lakehouse for itself.
First the keyed hashes are kept, so that nothing comes back meanwhile; then rows go, table by table, some days in one commit; then
earlier versions, whose files would still hold them; then the run files of trainings. Days that stood on what they were made from
still do: their states in the ledger are told of the removal. Cost: each table with ids is read once, in its id column, and the days
that hold a user to be forgotten are written anew. The driver holds the ids asked for and one row per table and day.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from jobs.context import Context
from jobs.delta_tables import on_days
from jobs.errors import BadInput
from jobs.forgotten_ids import CORRUPT, Key, read_key, require_same
from jobs.ledger import StageRecord, record_stage
from jobs.recorded_removals import recorded_again
from schemas.catalog import Source
from schemas.forgotten import FORGOTTEN
from schemas.keys import Days
from schemas.lakehouse import tables
from schemas.quarantine import quarantine_table_name
from schemas.source_events import source_table_name

STAGE = "forget_users"
DAYS_AT_ONCE = 31  # bounds one commit's rewriting
MOST_CHARS = 512  # of an id, as validation has it
DAY_COLUMNS = ("delivered_ds", "ds")  # a table is partitioned by one of them, the first that it has
WITHOUT_IDS = ("deliveries", "tokenizers", "codebook_quality", "audits", "promotions", "code_crosswalk", "runs", "forgotten")
NOT_COVERED = (
    "raw input, backups and copies outside the lakehouse",
    "label files, joined tables and reports that were written elsewhere; a report holds row hashes, no ids",
    "tokens that other systems read before",
    "checkpoints: codewords are means over many users' slices and hold no id; a codeword of a single slice is that slice's vector",
    "row hashes of single users in audits of days that failed",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A table with ids: where they stand, and by which day it is partitioned."""

    table: str
    day_column: str
    matches: tuple[Column, ...]  # of a row `t` and an id `s.user_id`; each is one MERGE


@dataclass(kw_only=True, slots=True)
class Certificate:
    """What was removed where. Holds no id and no hash of one."""

    certificate_id: str
    asked: int
    newly_forgotten: int = 0
    rows: dict[str, int] = field(default_factory=dict)  # table -> rows removed
    days: dict[str, int] = field(default_factory=dict)  # table -> days written anew
    files_deleted: dict[str, int] = field(default_factory=dict)  # table -> files of earlier versions
    run_files: list[str] = field(default_factory=list)  # of trainings, with samples of vectors
    not_covered: tuple[str, ...] = NOT_COVERED

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def held_ids(context: Context) -> Iterator[Held]:
    """Every table of the lakehouse that can hold an id. Raises where a table is in neither list: nobody decided about it."""
    sources = {source_table_name(s.name): s for s in context.catalog.sources} | {quarantine_table_name(s.name): s for s in context.catalog.sources}
    for table in tables(context.catalog):
        if table.name in WITHOUT_IDS:
            continue
        day = next(name for name in DAY_COLUMNS if name in table.columns)
        if table.name.startswith("quarantine_"):
            yield Held(table=table.name, day_column=day, matches=_raw_matches(sources[table.name]))
        elif "user_id" in table.columns:
            binary = next(f.type for f in table.fields if f.name == "user_id") == "BINARY"
            sought = F.encode(F.col("s.user_id"), "UTF-8") if binary else F.col("s.user_id")
            yield Held(table=table.name, day_column=day, matches=(F.col("t.user_id") == sought,))
        else:
            raise AssertionError(f"table {table.name}: neither known to hold ids nor known to hold none; decide in jobs/forget_users.py")


def _raw_matches(source: Source) -> tuple[Column, ...]:
    """The delivered id; and, in a line that its format couldn't read, the id anywhere."""
    torn = F.col("t.raw").getItem(CORRUPT)
    return (F.col("t.raw").getItem(source.entity_key.raw_name) == F.col("s.user_id"), torn.isNotNull() & F.contains(torn, F.col("s.user_id")))


def run(context: Context, users: Path, certificate: Path) -> Certificate:
    """Raises `BadInput` for a file without ids, a key that can't be used, or a certificate that would be written over."""
    ids = read_ids(users)
    if certificate.exists():
        raise BadInput(f"--certificate {certificate}: is there already; expected a new file")
    key = read_key(context.forget_key, context.lake.root)
    with record_stage(context, STAGE, None) as record:
        require_same(key, {row["key_id"] for row in context.lake.read("forgotten").select("key_id").distinct().collect()})
        made = Certificate(certificate_id=f"forget-{uuid.uuid4().hex[:12]}", asked=len(ids))
        asked = context.spark.createDataFrame([(user,) for user in ids], StructType([StructField("user_id", StringType(), False)])).cache()
        try:
            _remember(context, ids, key, made, record)
            _remove(context, asked, made, record)
        finally:
            asked.unpersist()
        record.rows |= {"asked": made.asked, "newly_forgotten": made.newly_forgotten, "removed": sum(made.rows.values())}
        record.notes["certificate"] = made.certificate_id
        certificate.write_text(made.to_json(), encoding="utf-8")
    return made


def read_ids(users: Path) -> list[str]:
    """One id a line, to the letter; empty lines don't count, an id twice counts once."""
    try:
        lines = users.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise BadInput(f"--users {users}: no such file; expected one id a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--users {users}: can't be read as UTF-8 text ({type(error).__name__}); expected one id a line") from None
    ids = list(dict.fromkeys(line for line in lines if line))
    if not ids:
        raise BadInput(f"--users {users}: found no id, expected one a line")
    long = next((number for number, line in enumerate(lines, start=1) if len(line) > MOST_CHARS or not line.isprintable()), None)
    if long is not None:
        raise BadInput(f"--users {users}, line {long}: found more than {MOST_CHARS} characters or a control character, expected an id")
    return ids


def _remember(context: Context, ids: Sequence[str], key: Key, made: Certificate, record: StageRecord) -> None:
    rows = [{"hmac": key.hmac_of(user), "key_id": key.key_id, "run_id": context.run_id} for user in ids]
    new = context.lake.frame(FORGOTTEN, rows).join(context.lake.read("forgotten").select("hmac"), on="hmac", how="left_anti").localCheckpoint()
    made.newly_forgotten = new.count()
    if made.newly_forgotten:
        metadata = {"run_id": context.run_id, "stage": STAGE, "certificate": made.certificate_id}
        record.written["forgotten"] = context.lake.append("forgotten", new.coalesce(1), metadata)


def _remove(context: Context, asked: DataFrame, made: Certificate, record: StageRecord) -> None:
    with recorded_again(context, _days_from(context, asked)):
        gone: dict[str, dict[tuple[date, str], int]] = {}
        for held in held_ids(context):
            gone[held.table] = _outcomes_of(context, held, asked)
            made.rows[held.table] = _merge(context, held, asked, made)
            record.rows[f"{held.table}.removed"] = made.rows[held.table]
        _move_outcomes(context, gone)
    for table in tables(context.catalog):
        made.files_deleted[table.name] = _vacuum(context, table.name)
    made.run_files = sorted(_delete_run_files(context))


def _days_from(context: Context, asked: DataFrame) -> Days | None:
    """From the first day with a row to be removed to the ledger's last: a profile is valid for all days after its own."""
    touched = [ds for held in held_ids(context) for ds in _days_of(context, held, asked)[:1]]
    last = context.lake.read("runs").agg(F.max("ds_to").alias("last")).collect()[0]["last"]
    return None if not touched or last is None else Days(min(*touched, last), last)


def _found(context: Context, held: Held, asked: DataFrame) -> DataFrame:
    rows = context.lake.read(held.table).alias("t")
    frames = [rows.join(asked.alias("s"), on=match, how="left_semi") for match in held.matches]
    return frames[0] if len(frames) == 1 else frames[0].unionByName(frames[1])


def _days_of(context: Context, held: Held, asked: DataFrame) -> list[date]:
    return [row[0] for row in _found(context, held, asked).select(held.day_column).distinct().orderBy(held.day_column).collect()]


def _outcomes_of(context: Context, held: Held, asked: DataFrame) -> dict[tuple[date, str], int]:
    """Rows to be removed per delivery; of tables that have deliveries."""
    if "delivery_id" not in context.lake.read(held.table).columns:
        return {}
    found = _found(context, held, asked).distinct() if "raw" not in context.lake.read(held.table).columns else _found(context, held, asked)
    counted = found.groupBy("delivered_ds", "delivery_id").count()
    return {(row.delivered_ds, row.delivery_id): row["count"] for row in counted.collect()}


def _merge(context: Context, held: Held, asked: DataFrame, made: Certificate) -> int:
    """Rows removed. Ids reach Delta as a table to join with, so none stands in a commit's predicate."""
    days = _days_of(context, held, asked)
    made.days[held.table] = len(days)
    removed, table = 0, DeltaTable.forPath(context.spark, context.lake.require(held.table))
    metadata = json.dumps({"run_id": context.run_id, "stage": STAGE, "certificate": made.certificate_id}, sort_keys=True)
    for start in range(0, len(days), DAYS_AT_ONCE):
        part = Days(days[start], days[min(start + DAYS_AT_ONCE, len(days)) - 1])
        in_part = F.col(f"t.{held.day_column}").between(F.lit(part.first), F.lit(part.last))
        before = on_days(context.lake.read(held.table), part, held.day_column).count()
        context.spark.conf.set("spark.databricks.delta.commitInfo.userMetadata", metadata)
        try:
            for match in held.matches:
                with context.lake.commit_lock():
                    table.alias("t").merge(asked.alias("s"), in_part & match).whenMatchedDelete().execute()
        finally:
            context.spark.conf.unset("spark.databricks.delta.commitInfo.userMetadata")
        removed += before - on_days(context.lake.read(held.table), part, held.day_column).count()
    return removed


def _move_outcomes(context: Context, gone: Mapping[str, Mapping[tuple[date, str], int]]) -> None:
    """In `deliveries` the removed rows become forgotten ones, so that outcomes still add up to the rows that were delivered."""
    moved = [
        (
            source.name,
            ds,
            delivery,
            gone[source_table_name(source.name)].get((ds, delivery), 0),
            gone[quarantine_table_name(source.name)].get((ds, delivery), 0),
        )
        for source in context.catalog.sources
        for ds, delivery in {*gone[source_table_name(source.name)], *gone[quarantine_table_name(source.name)]}
    ]
    if not moved:
        return
    changes = context.spark.createDataFrame(moved, "source string, delivered_ds date, delivery_id string, clean bigint, quarantined bigint").alias("s")
    same = [F.col(f"t.{name}") == F.col(f"s.{name}") for name in ("source", "delivered_ds", "delivery_id")]
    forgotten = F.coalesce(F.col("t.forgotten"), F.lit(0)) + F.col("s.clean") + F.col("s.quarantined")
    kept = {name: F.col(f"t.{name}") - F.col(f"s.{name}") for name in ("clean", "quarantined")}
    with context.lake.commit_lock():
        target = DeltaTable.forPath(context.spark, context.lake.require("deliveries")).alias("t")
        target.merge(changes, same[0] & same[1] & same[2]).whenMatchedUpdate(set=kept | {"forgotten": forgotten}).execute()


def _vacuum(context: Context, table: str) -> int:
    """Files of earlier versions deleted; nobody reads them, for the lakehouse is ours alone."""
    folder = Path(context.lake.path(table))
    before = sum(1 for _ in folder.rglob("*.parquet"))
    check = "spark.databricks.delta.retentionDurationCheck.enabled"
    context.spark.conf.set(check, "false")
    try:
        DeltaTable.forPath(context.spark, context.lake.path(table)).vacuum(0)
    finally:
        context.spark.conf.unset(check)
    return before - sum(1 for _ in folder.rglob("*.parquet"))


def _delete_run_files(context: Context) -> Iterator[str]:
    """The state of trainings that have not ended holds vectors of single slices."""
    for path in Path(context.lake.root, "checkpoints").glob(".*.training*"):
        path.unlink()
        yield path.name
