"""What a removal did, for whoever has to prove it; and what one that is under way has to know when it is cut short.

Neither holds an id or a hash of one. The second is a file in the lakehouse's own folder, replaced as a whole or not at all.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from pathlib import Path

from jobs.recorded_removals import WholeDays

NOT_COVERED = (
    "raw input: its owner removes the users there; until then their rows are refused at every validation",
    "backups, snapshots and object versions of the disk or store, and copies that others made of tables",
    "label files, joined tables, exports and reports outside the lakehouse; a report holds row hashes, no ids",
    "tokens that other systems have read before",
    "mentions of a user in free text of other users' rows",
    "trained checkpoints: codewords are means over slices and hold no id; one of a single slice is that slice's vector (train anew to be rid of it)",
    "a training by torchrun that was under way (`u2qt train --job`): it holds no lease; start it anew, and delete checkpoints/.V.training and .V.trained-*",
    "row hashes in audits of days that failed, which say nothing without the rows",
)


@dataclass(kw_only=True, slots=True)
class Removed:
    """Of one table."""

    rows: int = 0
    files_rewritten: int = 0
    files_deleted: int = 0  # of earlier versions, and left-overs of writes that died
    version_before: int = 0
    version_after: int = 0


@dataclass(kw_only=True, slots=True)
class Certificate:
    """The JSON file's fields."""

    certificate_id: str
    lakehouse: str
    catalog: str
    started_at: datetime
    finished_at: datetime
    asked: int
    found: int  # of those asked for, users with at least a row
    newly_forgotten: int
    tables: Mapping[str, Removed]
    run_files: list[str]  # of trainings, with samples of vectors
    reports: list[str]
    days_told: int  # states in the ledger that stand as before
    not_tables: list[str]  # in the lakehouse's folder: not looked into
    not_covered: tuple[str, ...] = NOT_COVERED

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"rows": self.rows}, indent=2, default=str) + "\n"


@dataclass(kw_only=True, slots=True)
class Underway:
    """A removal from its first look to its certificate."""

    certificate_id: str
    started_at: datetime
    looked_at: datetime | None = None  # when what follows was known
    found: int = 0
    days: tuple[date, ...] = ()  # that have rows of these users
    whole: list[WholeDays] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)  # of every table, before
    days_told: int = 0
    files_deleted: dict[str, int] = field(default_factory=dict)  # by table; those of a vacuum that was cut short are not counted
    run_files: list[str] = field(default_factory=list)  # noted before they go
    reports: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), default=str), encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Underway | None":
        if not path.exists():
            return None
        facts = json.loads(path.read_text(encoding="utf-8"))
        for moment in ("started_at", "looked_at"):
            facts[moment] = datetime.fromisoformat(facts[moment]) if facts[moment] else None
        facts["days"] = _dates(facts["days"])
        facts["whole"] = [WholeDays(**(whole | {"days": _dates(whole["days"])})) for whole in facts["whole"]]
        return cls(**facts)


def _dates(texts: list[str]) -> tuple[date, ...]:
    return tuple(map(date.fromisoformat, texts))
