"""import_stackexchange: a site's published XML dump becomes raw input for the catalog in examples/stackexchange.

Reads DUMP/{Posts,PostHistory,Comments,Badges,Users}.xml; writes OUT/<source>/delivered_ds=D/part-N.parquet, D the row's UTC day.
Key: the dump's own Id. Refuses an OUT in use; OUT appears only when it is whole. Votes.xml isn't read: no voter, no time of day.
A dump is taken years after its events, so nothing but ALLOWED leaves the reader, and a post's words come from its first revision, an
edit's from its own day. Rows of no user and of the site's bot are counted and left out. Memory is flat: no element tree, posts are
looked up in a temporary SQLite file, rows wait in bounded buffers.
"""

import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import BadInput, Infrastructure
from jobs.stackexchange_dump import ALLOWED, DumpRow, XmlRows
from jobs.stackexchange_rows import (
    EDITS,
    FIRST_PARTS,
    POST_TYPES,
    SCHEMAS,
    WHOLE,
    Post,
    Record,
    answer,
    badge,
    comment,
    edit,
    left_out,
    profile,
    question,
    split_tags,
)

MAX_PENDING = 10_000  # questions of whose first title, body and tags not all were read
BUFFER_BYTES = 1 << 25  # rows of one source that wait for their day's file


class Posts:
    """Posts by id in a SQLite file: a site may have more than memory holds."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -32768"):  # a scratch file of one run, 32 MiB in memory
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE posts (id INTEGER PRIMARY KEY, kind TEXT, owner INTEGER, parent INTEGER, tag TEXT, tagged_at REAL, written INTEGER)")
        self._db.execute("BEGIN")

    def load(self, rows: Iterable[DumpRow]) -> int:
        """How many were new; the first row of an Id stands."""
        kinds = ((r.key("Id"), POST_TYPES.get(r.key("PostTypeId"), "other"), r.number("OwnerUserId"), r.number("ParentId")) for r in rows)
        return self._db.executemany("INSERT OR IGNORE INTO posts VALUES (?, ?, ?, ?, NULL, NULL, 0)", kinds).rowcount

    def get(self, id_: int) -> Post | None:
        row = self._db.execute(
            "SELECT p.kind, p.owner, p.written, ifnull(q.tag, p.tag), ifnull(q.tagged_at, p.tagged_at) "
            "FROM posts p LEFT JOIN posts q ON q.id = p.parent WHERE p.id = ?",
            (id_,),
        ).fetchone()
        return None if row is None else Post(id=id_, kind=row[0], owner=row[1], written=bool(row[2]), tag=row[3], tagged_at=row[4])

    def tag(self, id_: int, tag: str | None, moment: datetime) -> None:
        self._db.execute("UPDATE posts SET tag = ?, tagged_at = ? WHERE id = ?", (tag, moment.timestamp(), id_))

    def mark_written(self, id_: int) -> None:
        self._db.execute("UPDATE posts SET written = 1 WHERE id = ?", (id_,))

    def outcomes(self) -> Counter[str]:
        """How many posts were written as what, or left out why."""
        counts: Counter[str] = Counter()
        for kind, owner, written, rows in self._db.execute("SELECT kind, owner, written, count(*) FROM posts GROUP BY 1, 2, 3"):
            reason = "other post types" if kind not in WHOLE else left_out(owner) or "no first revision"
            counts[f"{kind}s" if written else reason] += rows
        return counts

    def close(self) -> None:
        self._db.close()


class DayFiles:
    """Rows of one source on their way to a file per day. When the buffer is full its older half goes: one file a day if rows come in order."""

    def __init__(self, folder: Path, source: str, limit: int) -> None:
        self.files: Counter[date] = Counter()
        self.rows = 0
        self._folder, self._schema, self._limit = folder / source, SCHEMAS[source], limit
        self._waiting: defaultdict[date, list[Record]] = defaultdict(list)
        self._bytes: Counter[date] = Counter()
        self._total = 0

    def add(self, record: Record) -> None:
        moment = record["created_at"]
        assert isinstance(moment, datetime), "every transform sets it"
        size = 500 + 2 * sum(len(value) for value in record.values() if isinstance(value, str))
        self._waiting[moment.date()].append(record)
        self._bytes[moment.date()] += size
        self._total += size
        if self._total > self._limit:
            self.write(sorted(self._waiting)[: (len(self._waiting) + 1) // 2])

    def flush(self) -> None:
        self.write(sorted(self._waiting))

    def write(self, days: list[date]) -> None:
        for day in days:
            folder = self._folder / f"delivered_ds={day}"
            folder.mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(self._waiting.pop(day, []), schema=self._schema)
            pq.write_table(table, folder / f"part-{self.files[day]:05d}.parquet")
            self.files[day] += 1
            self.rows += table.num_rows
            self._total -= self._bytes.pop(day, 0)


class Revisions:
    """Rows of PostHistory: parts of first revisions gather until their post is whole; edits pass."""

    def __init__(self, posts: Posts, sinks: Mapping[str, DayFiles]) -> None:
        self._posts, self._sinks = posts, sinks
        self._pending: dict[int, dict[str, DumpRow]] = {}

    def add(self, row: DumpRow) -> str:
        """What became of the row."""
        type_, post = row.key("PostHistoryTypeId"), self._posts.get(row.key("PostId"))
        if type_ in FIRST_PARTS:
            return self._first(row, FIRST_PARTS[type_], post)
        if type_ not in EDITS:
            return "neither text nor tags"
        reason = left_out(row.number("UserId"))
        if reason is None:
            self._sinks["edits"].add(edit(row, post))
        return reason or "edits"

    def _first(self, row: DumpRow, part: str, post: Post | None) -> str:
        if post is None or post.kind not in WHOLE:
            return "post not in Posts.xml" if post is None else "other post types"
        parts = self._pending.get(post.id, {})
        if post.written or part in parts:
            return "repeated first revision"
        if part == "tags":
            self._posts.tag(post.id, next(iter(split_tags(row.values.get("Text"))), None), row.moment("CreationDate"))
        reason = left_out(post.owner)
        if reason is not None:
            return reason
        self._pending[post.id] = {**parts, part: row}
        if WHOLE[post.kind] <= self._pending[post.id].keys():
            self._emit(post.id)
        elif len(self._pending) > MAX_PENDING:
            self._emit(next(iter(self._pending)))
        return "first revisions"

    def finish(self) -> None:
        """Posts of which a part never came: it stays NULL."""
        for id_ in list(self._pending):
            self._emit(id_)
        for sink in self._sinks.values():
            sink.flush()

    def _emit(self, id_: int) -> None:
        post, rows = self._posts.get(id_), self._pending.pop(id_)
        assert post is not None, "pending posts were found before"
        moment = max(row.moment("CreationDate") for row in rows.values())
        parts = {part: row.values.get("Text") for part, row in rows.items()}
        if post.kind == "question":
            self._sinks["questions"].add(question(post, moment, parts))
        else:
            self._sinks["answers"].add(answer(post, moment, parts))
        self._posts.mark_written(id_)


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """`outcomes`: per file of the dump, how many of its rows became what or were left out why; they add up to its rows."""

    rows: Mapping[str, int]
    outcomes: Mapping[str, Mapping[str, int]]
    files: int
    first: date
    last: date

    def lines(self) -> list[str]:
        """The import in words, for a terminal."""
        total = ", ".join(f"{source} {rows:,}" for source, rows in self.rows.items())
        head = f"{sum(self.rows.values()):,} rows from {self.first} to {self.last} in {self.files:,} files ({total})"
        return [head, *(f"{file}.xml: " + ", ".join(f"{what} {n:,}" for what, n in sorted(counts.items())) for file, counts in self.outcomes.items())]


def run(dump: Path, out: Path, *, buffer_bytes: int = BUFFER_BYTES) -> Imported:
    """Raises `BadInput` for a dump that is not one and for an `out` in use, `Infrastructure` when it can't be written. Then there is no `out`."""
    work, out = None, out.resolve()
    try:
        _check(dump, out)
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        imported = _import(dump, work, buffer_bytes)
        (work / "raw").rename(out)
        return imported
    except (OSError, sqlite3.OperationalError) as error:
        raise Infrastructure(f"import to {out}: {error}; expected a readable dump and room to write; check the disk and permissions") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _check(dump: Path, out: Path) -> None:
    missing = [f"{name}.xml" for name in ALLOWED if not (dump / f"{name}.xml").is_file()]
    if missing:
        raise BadInput(f"{dump}: no {', '.join(missing)}, expected the files of a site's dump; unpack its archive (SITE.7z) there")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: exists already, expected a new folder (nothing is overwritten); remove it or give another --out")


def _import(dump: Path, work: Path, buffer_bytes: int) -> Imported:
    files = {name: XmlRows(dump / f"{name}.xml") for name in ALLOWED}
    sinks = {source: DayFiles(work / "raw", source, buffer_bytes) for source in SCHEMAS}
    posts = Posts(work / "posts.sqlite")
    try:
        new = posts.load(files["Posts"])
        revisions = Revisions(posts, sinks)
        history = Counter(revisions.add(row) for row in files["PostHistory"])
        revisions.finish()
        outcomes = {
            "Posts": posts.outcomes() + Counter({"repeated Id": files["Posts"].count - new}),
            "PostHistory": history,
            "Comments": _each(files["Comments"], "UserId", "comments", lambda row: comment(row, posts.get(row.key("PostId"))), sinks),
            "Badges": _each(files["Badges"], "UserId", "badges", badge, sinks),
            "Users": _each(files["Users"], "Id", "profile", profile, sinks),
        }
    finally:
        posts.close()
    return _finished(dump, files, sinks, outcomes)


def _each(rows: XmlRows, user: str, source: str, make: Callable[[DumpRow], Record], sinks: Mapping[str, DayFiles]) -> Counter[str]:
    """Every row of a known user becomes one row of `source`."""
    counts: Counter[str] = Counter()
    for row in rows:
        reason = left_out(row.number(user))
        if reason is None:
            sinks[source].add(make(row))
        counts[reason or source] += 1
    sinks[source].flush()
    return counts


def _finished(dump: Path, files: Mapping[str, XmlRows], sinks: Mapping[str, DayFiles], outcomes: Mapping[str, Counter[str]]) -> Imported:
    """Compares all counts. A source without a row gets an empty file, so that it can be read."""
    days = [day for sink in sinks.values() for day in sink.files]
    if not days:
        raise BadInput(f"{dump}: no row of a known user in it, expected a site's dump; take it from the published archive again")
    for sink in sinks.values():
        if not sink.files:
            sink.write([min(days)])
    rows = {source: sink.rows for source, sink in sinks.items()}
    for name, file in files.items():
        if file.count != outcomes[name].total():
            raise RuntimeError(f"{file.file}: {file.count} rows, outcomes {dict(outcomes[name])}; a row was lost or doubled")
    counted = {source: sum(counts[source] for counts in outcomes.values()) for source in rows}
    if rows != counted:
        raise RuntimeError(f"{dump}: {rows} rows written, expected {counted}")
    return Imported(rows=rows, outcomes=outcomes, files=sum(sum(sink.files.values()) for sink in sinks.values()), first=min(days), last=max(days))
