"""Reads the files of a Stack Exchange dump as streams of rows, and of their attributes only the allowed ones.

Knows XML and nothing of what the rows become. Refuses whatever is not a published dump, with file and line.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NoReturn
from xml.parsers import expat

from jobs.errors import BadInput

ALLOWED: dict[str, tuple[str, ...]] = {
    "Posts": ("Id", "PostTypeId", "ParentId", "OwnerUserId"),
    "PostHistory": ("Id", "PostHistoryTypeId", "PostId", "UserId", "CreationDate", "Text"),
    "Comments": ("Id", "PostId", "UserId", "CreationDate", "Text"),
    "Badges": ("Id", "UserId", "Date", "Name", "Class"),
    "Users": ("Id", "CreationDate"),
}
CHUNK_BYTES, MAX_ROW_BYTES = 1 << 16, 1 << 24  # the longest post has 30,000 characters


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
        _refuse(self.file, self.line, f"{name}={self.values.get(name)!r:.80}", expected, kept=name)


def _refuse(file: str, line: int, found: str, expected: str, kept: str | None = None) -> NoReturn:
    """`kept` stands in the log for what was found, where that is a value of a user's."""
    said = "{}, line {}: found {}, expected {}; take the file from the published archive again"
    raise BadInput(said.format(file, line, found, expected), kept=said.format(file, line, f"another {kept}", expected) if kept else None)


class XmlRows:
    """The rows of one file, in its order, and their `count`. No document type, entity, foreign element or endless row passes.

    `attributes` are those to read in place of the ALLOWED ones, for labels, which may know the future.
    """

    def __init__(self, file: Path, attributes: Sequence[str] | None = None) -> None:
        self.file, self.count, self._open = file, 0, 0
        self._attributes = ALLOWED[file.stem] if attributes is None else attributes
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
            values = {key: attributes[key] for key in self._attributes if key in attributes}
            self._rows.append(DumpRow(file=str(self.file), line=self._parser.CurrentLineNumber, values=values))
        self._open += 1

    def _end(self, _: str) -> None:
        self._open -= 1

    def _stop(self, found: str, expected: str) -> NoReturn:
        _refuse(str(self.file), self._parser.CurrentLineNumber, found, expected)
