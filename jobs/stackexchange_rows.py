"""Rows of a Stack Exchange dump as rows of the sources in examples/stackexchange. Pure: no file, no clock."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from jobs.stackexchange_dump import DumpRow

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

Record = dict[str, object]


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
