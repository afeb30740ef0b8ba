"""import_stackexchange: a site's published XML dump becomes raw input for the catalog in examples/stackexchange.

Reads DUMP/{Posts,PostHistory,Comments,Badges,Users}.xml; writes OUT/<source>/delivered_ds=D/part-N.parquet, D the row's UTC day.
Key: the dump's own Id. Refuses an OUT in use; OUT appears only when it is whole. Votes.xml isn't read: no voter, no time of day.
A dump is taken years after its events, so nothing but ALLOWED leaves the reader, and a post's words come from its first revision, an
edit's from its own day. Rows of no user and of the site's bot are counted and left out. Memory is flat: no element tree, posts are
looked up in a temporary SQLite file, rows wait in bounded buffers.
"""

import re
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO, NoReturn
from xml.parsers import expat

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import BadInput, Infrastructure

ALLOWED: dict[str, tuple[str, ...]] = {
    "Posts": ("Id", "PostTypeId", "ParentId", "OwnerUserId"),
    "PostHistory": ("Id", "PostHistoryTypeId", "PostId", "UserId", "CreationDate", "Text"),
    "Comments": ("Id", "PostId", "UserId", "CreationDate", "Text"),
    "Badges": ("Id", "UserId", "Date", "Name", "Class"),
    "Users": ("Id", "CreationDate"),
}
TEXT, NUMBER = pa.string(), pa.int64()
ABOUT_POST = {"post_type": TEXT, "own_post": pa.bool_(), "main_tag": TEXT, "text": TEXT, "text_chars": NUMBER}
COLUMNS = {
    "questions": {"post_id": NUMBER, "title": TEXT, "tags": TEXT, "main_tag": TEXT, "tag_count": NUMBER, "body": TEXT, "body_chars": NUMBER},
    "answers": {"post_id": NUMBER, "main_tag": TEXT, "body": TEXT, "body_chars": NUMBER},
    "comments": {"comment_id": NUMBER, **ABOUT_POST},
    "edits": {"edit_id": NUMBER, "action": TEXT, "part": TEXT, **ABOUT_POST},
    "badges": {"badge_id": NUMBER, "badge": TEXT, "badge_class": TEXT},
    "profile": {"joined_month": TEXT, "joined_weekday": TEXT, "joined_hour": NUMBER, "joined_day": NUMBER},
}
SCHEMAS = {source: pa.schema({"user_id": TEXT, "created_at": pa.timestamp("us", tz="UTC"), **columns}) for source, columns in COLUMNS.items()}
POST_TYPES = {1: "question", 2: "answer"}
FIRST_PARTS = {1: "title", 2: "body", 3: "tags"}  # by PostHistoryTypeId, as EDITS
EDITS = {n: (action, part) for action, first in (("edit", 4), ("rollback", 7)) for n, part in enumerate(FIRST_PARTS.values(), first)}
WHOLE = {"question": {"title", "body", "tags"}, "answer": {"body"}}
CLASSES = {1: "gold", 2: "silver", 3: "bronze"}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
BOT, EPOCH = -1, date(1970, 1, 1)
CHUNK_BYTES, MAX_ROW_BYTES = 1 << 16, 1 << 24  # the longest post has 30,000 characters
MAX_PENDING = 10_000  # questions of whose first title, body and tags not all were read
BUFFER_BYTES = 1 << 25  # rows of one source that wait for their day's file

Record = dict[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpRow:
    """The allowed attributes of one row of a file. Reading a value that is not what it should be raises `BadInput`."""

    file: str
    line: int
    values: Mapping[str, str]

    def number(self, name: str) -> int | None:
        return self.key(name) if name in self.values else None

    def key(self, name: str) -> int:
        value = self.values.get(name, "")
        return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else self._refuse(name, "a whole number of at most 18 digits")

    def moment(self, name: str) -> datetime:
        value = self.values.get(name, "")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?", value, re.ASCII):
            self._refuse(name, "a UTC time such as 2014-01-21T20:26:05.383")
        try:
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        except ValueError:
            self._refuse(name, "a time that exists")

    def _refuse(self, name: str, expected: str) -> NoReturn:
        _refuse(self.file, self.line, f"{name}={self.values.get(name)!r:.80}", expected)


@dataclass(frozen=True, kw_only=True, slots=True)
class Post:
    """What may be known of a post; `tag` is the first tag of its question, as first asked at `tagged_at` (seconds since 1970)."""

    id: int
    kind: str
    owner: int | None
    written: bool
    tag: str | None
    tagged_at: float | None

    def tag_at(self, moment: datetime) -> str | None:
        """NULL before the question was tagged: a merge can put an answer under a younger question."""
        return self.tag if self.tagged_at is not None and self.tagged_at <= moment.timestamp() else None


def left_out(user: int | None) -> str | None:
    """Why rows of `user` are nobody's behaviour, or None."""
    return "no user" if user is None else "the site's bot" if user == BOT else None


def split_tags(text: str | None) -> list[str]:
    """`<hops><ale>`, or `|hops|ale|` as dumps since 2024 write it."""
    return re.findall(r"[^<>|]+", text or "")


def question(post: Post, moment: datetime, parts: Mapping[str, str | None]) -> Record:
    body, tags = parts.get("body"), split_tags(parts.get("tags"))
    record = {"title": parts.get("title"), "tags": ", ".join(tags) or None, "main_tag": next(iter(tags), None), "tag_count": len(tags)}
    return {"user_id": str(post.owner), "created_at": moment, "post_id": post.id, **record, "body": body, "body_chars": len(body or "")}


def answer(post: Post, moment: datetime, parts: Mapping[str, str | None]) -> Record:
    body = parts.get("body")
    record = {"main_tag": post.tag_at(moment), "body": body, "body_chars": len(body or "")}
    return {"user_id": str(post.owner), "created_at": moment, "post_id": post.id, **record}


def edit(row: DumpRow, post: Post | None) -> Record:
    action, part = EDITS[row.key("PostHistoryTypeId")]
    text = row.values.get("Text")
    shown = ", ".join(split_tags(text)) or None if part == "tags" else text
    return {"edit_id": row.key("Id"), "action": action, "part": part, **_about_post(row, post, shown)}


def comment(row: DumpRow, post: Post | None) -> Record:
    return {"comment_id": row.key("Id"), **_about_post(row, post, row.values.get("Text"))}


def _about_post(row: DumpRow, post: Post | None, text: str | None) -> Record:
    """`post` is None where it was deleted since."""
    user, moment = row.key("UserId"), row.moment("CreationDate")
    known = {} if post is None else {"post_type": post.kind, "own_post": post.owner == user, "main_tag": post.tag_at(moment)}
    return {"user_id": str(user), "created_at": moment, "text": text, "text_chars": len(text or ""), **known}


def badge(row: DumpRow) -> Record:
    named = {"badge": row.values.get("Name"), "badge_class": CLASSES.get(row.number("Class") or 0)}
    return {"user_id": str(row.key("UserId")), "created_at": row.moment("Date"), "badge_id": row.key("Id"), **named}


def profile(row: DumpRow) -> Record:
    """Valid from the user's first day; all parts are UTC's, `joined_day` counts from 1970-01-01."""
    at = row.moment("CreationDate")
    joined = {"joined_month": at.isoformat()[:7], "joined_weekday": WEEKDAYS[at.weekday()], "joined_hour": at.hour, "joined_day": (at.date() - EPOCH).days}
    return {"user_id": str(row.key("Id")), "created_at": at, **joined}


def _refuse(file: str, line: int, found: str, expected: str) -> NoReturn:
    raise BadInput(f"{file}, line {line}: found {found}, expected {expected}; take the file from the published archive again")


class XmlRows:
    """The rows of one file, in its order, and their `count`. No document type, entity, foreign element or endless row passes."""

    def __init__(self, file: Path) -> None:
        self.file, self.count, self._open = file, 0, 0
        self._rows: list[DumpRow] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler, self._parser.EndElementHandler = self._start, self._end
        self._parser.StartDoctypeDeclHandler = lambda name, *_: self._stop(f"a document type ({name:.40})", "none, and so no entities")

    def __iter__(self) -> Iterator[DumpRow]:
        with self.file.open("rb") as stream:
            more = True
            while more:
                more = self._feed(stream)
                self.count += len(self._rows)
                yield from self._rows
                self._rows.clear()

    def _feed(self, stream: BinaryIO) -> bool:
        chunk = stream.read(CHUNK_BYTES)
        try:
            self._parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            _refuse(str(self.file), error.lineno, f"malformed XML ({expat.ErrorString(error.code)})", "a whole XML file")
        if stream.tell() - self._parser.CurrentByteIndex > MAX_ROW_BYTES:
            self._stop("a row that does not end", f"rows of at most {MAX_ROW_BYTES:,} bytes")
        return bool(chunk)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        expected = (self.file.stem.lower(), "row", "")[min(self._open, 2)]
        if name != expected:
            self._stop(f"<{name:.40}>", f"<{expected}>" if expected else "rows without content")
        if self._open == 1:
            values = {key: attributes[key] for key in ALLOWED[self.file.stem] if key in attributes}
            self._rows.append(DumpRow(file=str(self.file), line=self._parser.CurrentLineNumber, values=values))
        self._open += 1

    def _end(self, _: str) -> None:
        self._open -= 1

    def _stop(self, found: str, expected: str) -> NoReturn:
        _refuse(str(self.file), self._parser.CurrentLineNumber, found, expected)


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
