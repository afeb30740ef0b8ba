"""forget_users: removes users from every table, every earlier version and every file of the lakehouse, and refuses them from then on.

Reads a file of ids; writes `forgotten`, every table with ids, `deliveries`, `audits`, `runs`, and a certificate. Key: one id.
Idempotent: what is removed is not there to be removed again. A run that was cut short is gone on with by the same command, under
the same certificate. Needs the lakehouse for itself.
The keyed hashes are kept first, so that nothing comes back meanwhile; then rows go, table by table, some days in one commit; then
earlier versions, whose files still hold them, and the run files of trainings. Days that stood as their stages left them do so
afterwards. Cost: the ids of each table are read twice, files with a forgotten user are written anew; the driver holds days.
"""

import json
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import reduce
from pathlib import Path
from shutil import rmtree

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.context import Context
from jobs.errors import BadInput
from jobs.forget_certificate import NOT_COVERED, Certificate, Removed, Underway
from jobs.forgotten_ids import Key, hmac_column, known_keys, read_key, require_same
from jobs.ids_to_forget import read_ids
from jobs.ledger import StageRecord, record_stage
from jobs.recorded_removals import WholeDays, record_again, whole_days
from jobs.registered_tokenizers import all_registered, checkpoint_folder
from jobs.row_removal import remove_rows, removed_since, vacuum, with_statistics
from jobs.tables_with_ids import WithIds, tables_with_ids
from schemas import keys
from schemas.deliveries import DELIVERIES
from schemas.forgotten import FORGOTTEN
from schemas.keys import Days
from schemas.lakehouse import tables
from schemas.quarantine import quarantine_table_name
from schemas.source_events import source_table_name

STAGE = "forget_users"
RUN_FILES = (".*.training*", ".*.trained-*")  # beside checkpoints: states of trainings that did not end


def run(context: Context, users: Path, certificate: Path, *, checkpoints: Path | None = None, reports: Path | None = None) -> Certificate:
    """Raises `BadInput` for a file without ids, a key that can't be used, or a certificate that would be written over.

    `checkpoints`: a folder of checkpoints that no registered tokenizer lies in. `reports`: a folder whose reports of touched days go too.
    """
    if certificate.exists() and not _is_of_this_removal(context, certificate):
        raise BadInput(f"--certificate {certificate}: is there already, expected a new file")
    if not certificate.parent.is_dir() or not os.access(certificate.parent, os.W_OK):
        raise BadInput(f"--certificate {certificate}: {certificate.parent} is no folder that this user may write to; make it first, or name another")
    for option, folder in (("--checkpoints", checkpoints), ("--reports", reports)):
        if folder is not None and not folder.is_dir():
            raise BadInput(f"{option} {folder}: no such folder")
    key = read_key(context.forget_key, context.lake.root)
    with record_stage(context, STAGE, None) as record:
        require_same(key, known_keys(context))
        context.lake.read_declared(DELIVERIES)
        _require_its_catalog(context)
        ids = read_ids(context.spark, users)
        underway = _begun(context, ids, key)
        _remove_rows(context, ids, underway)
        underway.days_told = max(underway.days_told, record_again(context, underway.whole))
        underway.write(_underway_file(context))
        removed = _removed(context, underway)
        _delete_files(underway, underway.run_files, _run_files(context, checkpoints), _underway_file(context))
        _delete_files(underway, underway.reports, _reports(reports, underway), _underway_file(context))
        made = Certificate(
            certificate_id=underway.certificate_id,
            lakehouse=context.lake.root,
            catalog=context.catalog.name,
            started_at=underway.started_at,
            finished_at=datetime.now(UTC),
            asked=ids.count(),
            found=underway.found,
            newly_forgotten=context.lake.read("forgotten").where(F.col("certificate_id") == F.lit(underway.certificate_id)).count(),
            tables=removed,
            run_files=sorted(underway.run_files),
            reports=sorted(underway.reports),
            days_told=underway.days_told,
            not_tables=_not_tables(context),
            not_covered=(*NOT_COVERED, *_in_statistics(context)),
        )
        _fill(record, made)
        part = certificate.with_name(f".{certificate.name}.part")
        part.write_text(made.to_json(), encoding="utf-8")
        part.replace(certificate)
    _underway_file(context).unlink()  # when the ledger has its row: until then the same command goes on
    return made


def _underway_file(context: Context) -> Path:
    return context.lake.own_folder("forget") / "underway.json"


def _is_of_this_removal(context: Context, certificate: Path) -> bool:
    """Whether the file is of the removal that is under way: that process died after its last word but one."""
    underway = Underway.read(_underway_file(context))
    if underway is None or not certificate.is_file():
        return False
    try:
        said = json.loads(certificate.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("certificate_id") == underway.certificate_id


def _require_its_catalog(context: Context) -> None:
    """A source that the catalog doesn't name would keep its rows, and bring its users back."""
    ours = (source_table_name(""), quarantine_table_name(""))
    others = [name for name in _not_tables(context) if name.startswith(ours) and keys.NAME.match(name) and context.lake.exists(name)]
    if others:
        raise BadInput(
            f"lakehouse {context.lake.root}: found tables {', '.join(others)}, which catalog {context.catalog.name} has no source for; "
            "give the catalog that the lakehouse was made with by --catalog or U2QT_CATALOG, or move these tables out of it"
        )


def _begun(context: Context, ids: DataFrame, key: Key) -> Underway:
    """Ids remembered, and what must be known of the lakehouse before its rows go; what a run that was cut short knew still holds."""
    file = _underway_file(context)
    underway = Underway.read(file)
    if underway is None:
        versions = {table.name: context.lake.version(table.name) for table in tables(context.catalog)}
        underway = Underway(certificate_id=f"forget-{uuid.uuid4().hex[:12]}", started_at=datetime.now(UTC), versions=versions)
        underway.write(file)
    else:
        _require_its_ids(context, ids, key, underway)
    _remember(context, ids, key, underway.certificate_id)
    found, days = _look(context, ids)
    underway.found, underway.days = max(found, underway.found), tuple(sorted({*underway.days, *days}))
    if underway.looked_at is None:
        underway.whole = _whole(context, days)
        underway.looked_at = datetime.now(UTC)
    elif _worked_since(context, underway.looked_at):
        underway.whole, underway.days_told = [], 0  # a stage may have read what was half removed: its days are worked again
    underway.write(file)
    return underway


def _whole(context: Context, days: tuple[date, ...]) -> list[WholeDays]:
    """A profile is valid for days after its own, so up to the last."""
    last = context.lake.read("runs").agg(F.max("ds_to").alias("last")).collect()[0]["last"]
    return [] if not days or last is None else whole_days(context, Days(min(days[0], last), last))


def _require_its_ids(context: Context, ids: DataFrame, key: Key, underway: Underway) -> None:
    """A run that was cut short is gone on with only together with all of its ids."""
    hashes = ids.select(hmac_column(key)(F.col("user_id")).alias("hmac"))
    theirs = context.lake.read("forgotten").where(F.col("certificate_id") == F.lit(underway.certificate_id))
    missing = theirs.join(hashes, on="hmac", how="left_anti").count()
    if missing:
        raise BadInput(
            f"--users: {underway.certificate_id} was cut short, and {missing} of its users are not in this file, expected all of them; "
            "run `u2qt forget` with its file first, or add these ids to it"
        )


def _worked_since(context: Context, moment: datetime) -> bool:
    runs = context.lake.read("runs").where((F.col("started_at") > F.lit(moment)) & (F.col("stage") != STAGE))
    return not runs.where(~F.col("status").isin("skipped", "adjusted")).isEmpty()


def _remember(context: Context, ids: DataFrame, key: Key, certificate_id: str) -> None:
    known = context.lake.read("forgotten").select("hmac")
    hashes = ids.select(hmac_column(key)(F.col("user_id")).alias("hmac")).join(known, on="hmac", how="left_anti")
    facts = {"key_id": F.lit(key.key_id), "forgotten_at": F.lit(datetime.now(UTC)), "certificate_id": F.lit(certificate_id), "run_id": F.lit(context.run_id)}
    new = hashes.withColumns(facts).select(*FORGOTTEN.columns).localCheckpoint()
    if not new.isEmpty():
        context.lake.append("forgotten", new.coalesce(1), _metadata(certificate_id))


def _metadata(certificate_id: str) -> dict[str, object]:
    """The same in a run that goes on with another, so that both count."""
    return {"stage": STAGE, "certificate": certificate_id}


def _look(context: Context, ids: DataFrame) -> tuple[int, tuple[date, ...]]:
    """How many of the users have a row anywhere, and the days that have one, of delivery or of the event."""
    frames = [_found(context, table, ids).select("user_id", F.array(*table.day_columns).alias("days")) for table in tables_with_ids(context.catalog)]
    hits = reduce(DataFrame.unionAll, frames).localCheckpoint()
    days = hits.select(F.explode("days").alias("ds")).where(F.col("ds").isNotNull()).distinct().orderBy("ds").collect()
    return hits.select("user_id").distinct().count(), tuple(row.ds for row in days)


def _found(context: Context, table: WithIds, ids: DataFrame) -> DataFrame:
    return table.found(context.lake.read(table.name), ids)


def _remove_rows(context: Context, ids: DataFrame, underway: Underway) -> None:
    for table in tables_with_ids(context.catalog):
        _remove_from(context, table, ids, underway)
    _count_again(context, underway.days)


def _remove_from(context: Context, table: WithIds, ids: DataFrame, underway: Underway) -> None:
    found = _found(context, table, ids).localCheckpoint()
    days = [row[table.day] for row in found.select(table.day).distinct().orderBy(table.day).collect()]
    remove_rows(context.lake, table, found, days, _metadata(underway.certificate_id))


def _count_again(context: Context, days: tuple[date, ...]) -> None:
    """In `deliveries`, what the tables lack now was forgotten: the outcomes still add up to the rows that were delivered."""
    if not days:
        return
    frames = []
    for source in context.catalog.sources:
        for table, outcome in ((source_table_name(source.name), "clean"), (quarantine_table_name(source.name), "quarantined")):
            rows = context.lake.read(table).where(F.col("delivered_ds").isin(list(days)))
            frames.append(rows.select(F.lit(source.name).alias("source"), "delivered_ds", "delivery_id", F.lit(outcome).alias("outcome")))
    counted = reduce(DataFrame.unionAll, frames).groupBy("source", "delivered_ds", "delivery_id")
    counts = counted.agg(F.count_if(F.col("outcome") == "clean").alias("clean"), F.count_if(F.col("outcome") == "quarantined").alias("quarantined"))
    key = ["source", "delivered_ds", "delivery_id"]
    listed = context.lake.read("deliveries").where(F.col("delivered_ds").isin(list(days))).select(*key)
    now = listed.join(counts, on=key, how="left").na.fill(0).localCheckpoint().alias("s")
    same = reduce(lambda a, b: a & b, [F.col(f"t.{name}") == F.col(f"s.{name}") for name in key])
    differs = (F.col("t.clean") != F.col("s.clean")) | (F.col("t.quarantined") != F.col("s.quarantined"))
    forgotten = F.col("t.rows_in") - F.col("t.duplicates") - F.col("s.clean") - F.col("s.quarantined")
    changes: dict[str, str | Column] = {"clean": F.col("s.clean"), "quarantined": F.col("s.quarantined"), "forgotten": forgotten}
    changes["nulls"] = F.lit(None).cast("map<string,bigint>")  # of rows that are gone
    with context.lake.commit_lock():
        target = DeltaTable.forPath(context.spark, context.lake.require("deliveries")).alias("t")
        target.merge(now, same).whenMatchedUpdate(condition=differs, set=changes).execute()


def _removed(context: Context, underway: Underway) -> Mapping[str, Removed]:
    """What became of every table, its earlier versions gone."""
    with_ids = {table.name for table in tables_with_ids(context.catalog)}
    found: dict[str, Removed] = {}
    for name, version in underway.versions.items():
        rows, files = removed_since(context.lake, name, version, _metadata(underway.certificate_id)) if name in with_ids else (0, 0)
        found[name] = Removed(rows=rows, files_rewritten=files, version_before=version)
    for name, deleted in vacuum(context.lake, tuple(found)).items():
        underway.files_deleted[name] = underway.files_deleted.get(name, 0) + deleted
    underway.write(_underway_file(context))
    for name, removed in found.items():
        removed.files_deleted, removed.version_after = underway.files_deleted[name], context.lake.version(name)
    return found


def _run_files(context: Context, checkpoints: Path | None) -> list[Path]:
    """A state holds samples of single slices' vectors. No training is under way: it would hold the lakehouse."""
    folders = {checkpoint_folder(context, None), *(Path(registered.checkpoint).parent for registered in all_registered(context))}
    folders |= {checkpoints} if checkpoints is not None else set()
    return [path for folder in folders if folder.is_dir() for pattern in RUN_FILES for path in folder.glob(pattern)]


def _reports(folder: Path | None, underway: Underway) -> list[Path]:
    """Those that `u2qt report` named by their day, of the touched days."""
    found = [folder / f"{ds}.html" for ds in underway.days] if folder is not None else []
    return [path for path in found if path.is_file()]


def _delete_files(underway: Underway, noted: list[str], found: list[Path], file: Path) -> None:
    """They are noted first: a certificate after a break names what went before it."""
    noted += sorted({str(path) for path in found} - {*noted})
    underway.write(file)
    for path in found:
        if path.is_dir():
            rmtree(path)
        else:
            path.unlink(missing_ok=True)  # two folders may be one


def _not_tables(context: Context) -> list[str]:
    known = {table.name for table in tables(context.catalog)} | {"_u2qt"}
    return sorted(path.name for path in Path(context.lake.root).iterdir() if path.name not in known)


def _in_statistics(context: Context) -> list[str]:
    found = [table.name for table in tables_with_ids(context.catalog) if with_statistics(context.lake, table.name)]
    return [f"the Delta log of {', '.join(found)}: its statistics are on, so that old entries may hold ids; make the lakehouse anew"] if found else []


def _fill(record: StageRecord, made: Certificate) -> None:
    record.rows |= {"asked": made.asked, "found": made.found, "newly_forgotten": made.newly_forgotten, "removed": made.rows}
    record.rows |= {f"{name}.removed": table.rows for name, table in made.tables.items() if table.rows}
    record.written |= {name: table.version_after for name, table in made.tables.items() if table.rows}
    record.notes["certificate"] = made.certificate_id
