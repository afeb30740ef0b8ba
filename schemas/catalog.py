"""A catalog: the behaviour sources of one company, declared in YAML and checked by pydantic.

A catalog is a folder with `catalog.yaml` (name, time zone, delivery lag, the sources in order), `sources/<name>.yaml` and
`expectations/sources/<name>.json`. The order of the sources is part of the meaning of every tensor and table made from it.
Reading and reporting live in `catalog_files`; this module only says what a right declaration is.
"""

import hashlib
import json
import string
import zoneinfo
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from schemas import keys
from schemas.drift import DriftRules
from schemas.errors import IdentifierError
from schemas.passwords import SECRET_KEY, has_password

RESERVED = frozenset({"user_id", "event_time", "available_time", "ds", "delivered_ds", "delivery_id", "run_id", "reasons", "raw", "row_hash"})
COUNTED = frozenset({"user_id", "users", "ds"})  # beside a number per source
NOT_IN_PATHS = frozenset("#*?[]{}\\")  # Petastorm's, Hadoop's and Spark's own signs
LONGEST_PATH, LONGEST_TEXT = 2048, 255
OWN_OPTIONS = frozenset({"path", "paths", "basepath", "mode", "columnnameofcorruptrecord"})
ColumnType = Literal["string", "bigint", "double", "boolean", "timestamp", "date"]
Role = Literal["categorical", "numeric", "text", "ignore"]
ROLE_TYPES: dict[str, set[str]] = {
    "categorical": {"string", "bigint", "boolean"},
    "numeric": {"bigint", "double"},
    "text": {"string"},
}


def _zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("an IANA time zone such as Asia/Shanghai") from None
    return value


def _duration(value: str) -> str:
    keys.duration(value)
    return value


def _path(value: str) -> str:
    """Of one delivery: relative to the input root and inside it, or absolute, or a URI, as the declaration's author says."""
    literal = value.replace("{ds}", "")
    if ".." in PurePosixPath(value).parts or set(literal) & NOT_IN_PATHS or not value.isprintable() or not value:
        raise ValueError(f"a path without '..', control characters, or one of {' '.join(sorted(NOT_IN_PATHS))} (but {{ds}})")
    if len(value.encode()) > LONGEST_PATH:
        raise ValueError(f"a path of at most {LONGEST_PATH} bytes")
    if has_password(value):
        raise ValueError("a URI without a password: declarations are shared and recorded (docs/security.md)")
    return value


def _options(value: dict[str, str]) -> dict[str, str]:
    """A reader's options, less those that would read other files, lose rows in silence, or carry a secret."""
    for key in value:
        if SECRET_KEY.search(key):
            raise ValueError(f"no option {key!a}: secrets belong into Spark's own settings (docs/security.md)")
        if key.lower() in OWN_OPTIONS:
            raise ValueError(f"options other than {', '.join(sorted(OWN_OPTIONS))} (option {key} is U2QT's own)")
    return value


def _text(value: str) -> str:
    """A raw column's name or a pattern: anything a person can read."""
    if not value.isprintable() or len(value) > LONGEST_TEXT:
        raise ValueError(f"printable characters, at most {LONGEST_TEXT}")
    return value


Name = Annotated[str, AfterValidator(keys.name)]
Zone = Annotated[str, AfterValidator(_zone)]
Duration = Annotated[str, AfterValidator(_duration)]
InputPath = Annotated[str, AfterValidator(_path)]
Options = Annotated[dict[str, str], AfterValidator(_options)]
RawName = Annotated[str, AfterValidator(_text)]


class Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class KeyField(Declaration):
    """The entity key: who did it."""

    raw_name: RawName = Field(alias="from", min_length=1)
    comment: str = "User id, as the source's owner writes it."


class TimeField(Declaration):
    """A moment: the raw column it is read from, its pattern (Spark's, ISO 8601 when left out) and its zone."""

    raw_name: RawName = Field(alias="from", min_length=1)
    format: str | None = None  # Spark datetime pattern; None reads ISO 8601 and typed timestamps
    zone: Zone | None = None  # of values that carry no offset; None means the catalog's
    comment: str = ""


class Column(Declaration):
    """One column of a source, after validation."""

    name: Name
    type: ColumnType
    role: Role = "ignore"
    comment: str = Field(min_length=1)
    raw_name: RawName | None = Field(default=None, alias="from", min_length=1)  # None: the raw column has the same name
    unit: str | None = None  # such as seconds, or minor units of the currency
    nullable: bool = True
    categories: tuple[str, ...] | None = None  # the closed list of a categorical column
    min: float | None = None  # inclusive
    max: float | None = None  # inclusive
    max_chars: int = Field(default=4096, ge=1, le=65536)  # longest string accepted
    format: str | None = None  # Spark datetime pattern of timestamp and date columns
    zone: Zone | None = None

    @property
    def source_column(self) -> str:
        return self.raw_name or self.name

    @model_validator(mode="after")
    def _consistent(self) -> "Column":
        if self.name in RESERVED:
            raise ValueError(f"column {self.name}: a name that U2QT does not use itself ({', '.join(sorted(RESERVED))})")
        if self.role in ROLE_TYPES and self.type not in ROLE_TYPES[self.role]:
            raise ValueError(f"column {self.name}: role {self.role} with type {' or '.join(sorted(ROLE_TYPES[self.role]))}")
        if (self.min is not None or self.max is not None) and self.type not in {"bigint", "double"}:
            raise ValueError(f"column {self.name}: min and max only with type bigint or double")
        if self.categories is not None and self.role != "categorical":
            raise ValueError(f"column {self.name}: categories only with role categorical")
        return self


class Input(Declaration):
    """Where the raw rows lie. With `{ds}` in the path each day has its own folder; else `delivered_ds` names a column."""

    format: Literal["parquet", "csv", "json", "delta"]
    path: InputPath  # relative to --input, or absolute, or a URI
    options: Options = Field(default_factory=dict)  # reader options, as Spark documents them
    delivered_ds: RawName | None = None  # raw column that holds the day of delivery
    delivery_id: RawName | None = None  # raw column that names the delivery; default <source>-<delivered_ds>

    @model_validator(mode="after")
    def _dated(self) -> "Input":
        if ("{ds}" in self.path) == (self.delivered_ds is not None):
            raise ValueError("either {ds} in path or a delivered_ds column, and not both")
        return self


class Source(Declaration):
    """One behaviour source: events, or the profile (one row per user and day from which it is valid)."""

    name: Name
    kind: Literal["events", "profile"]
    description: str = Field(min_length=1)
    entity_key: KeyField
    event_time: TimeField  # profile: the day from which the row is valid
    available_time: TimeField | None = None  # when the owner could deliver it; default: the end of delivered_ds
    dedup_key: tuple[str, ...] = Field(min_length=1)
    columns: tuple[Column, ...] = Field(min_length=1)
    input: Input
    template: str | None = None  # one event as text, such as "{product} via {channel} {amount:log2}"
    min_rows_per_day: int = Field(default=1, ge=0)  # 0 for sparse sources
    max_events: int = Field(default=16, ge=1, le=256)  # events kept in the fixed-length arrays (the latest)
    max_text_chars: int = Field(default=2000, ge=16, le=20000)  # length at which a slice text is cut
    lookback_days: int | None = Field(default=None, ge=1)  # profile: oldest row still valid; None reads all history

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    def with_role(self, *roles: str) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.role in roles)

    @property
    def id_columns(self) -> tuple[Column, ...]:
        """Columns hashed into `<source>_event_ids` (or the profile's ids), in declared order."""
        return self.with_role("categorical") if self.kind == "profile" else self.with_role("categorical", "text")

    @property
    def value_names(self) -> tuple[str, ...]:
        """Entries of `<source>_event_values` (or the profile's values) of one event; a null numeric is 0 with present 0."""
        names: list[str] = []
        for column in self.with_role("numeric"):
            names += [column.name, f"{column.name}_present"] if column.nullable else [column.name]
        return tuple(names) if self.kind == "profile" else (*names, "time_of_day", "gap")

    @property
    def template_fields(self) -> tuple[tuple[str, str, str], ...]:
        """(literal text, column or '', format) parts of the template, in order."""
        return tuple((text, field or "", spec or "") for text, field, spec, _ in string.Formatter().parse(self.template or ""))

    @property
    def definition(self) -> str:
        """16 hex digits over everything that gives this source's features their meaning; not comments, checks or input."""
        columns = [(c.name, c.type, c.nullable) for c in (*self.id_columns, *self.with_role("numeric"))]
        facts = [self.kind, columns, self.value_names, self.template, self.max_text_chars, self.lookback_days]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def meaning(self) -> dict[str, Any]:
        """What decides which rows are clean and what they hold: not comments, nor what features are made of."""
        features = dict.fromkeys(("description", "template", "dedup_key", "max_events", "max_text_chars", "lookback_days"), True)
        declared = self.model_dump(mode="json", exclude=features)
        for part in (declared["entity_key"], declared["event_time"], declared["available_time"] or {}, *declared["columns"]):
            for explained in ("comment", "unit", "role"):
                part.pop(explained, None)
        return declared

    @model_validator(mode="after")
    def _consistent(self) -> "Source":
        names = [c.name for c in self.columns]
        duplicates = sorted({n for n in names if names.count(n) > 1})
        if duplicates:
            raise ValueError(f"columns: {', '.join(duplicates)} once each")
        if self.name in COUNTED:
            raise ValueError(f"name: {self.name}: a name that U2QT does not count by itself ({', '.join(sorted(COUNTED))})")
        for key in self.dedup_key:
            if key not in {*names, "user_id", "event_time"}:
                raise ValueError(f"dedup_key: {key!r} among the columns, user_id or event_time")
            if key in names and self.column(key).nullable:
                raise ValueError(f"dedup_key: {key} declared nullable: false (events without a key would collapse into one)")
        if not self.id_columns:
            raise ValueError("columns: at least one categorical (or, for events, text) column")
        if self.kind == "profile" and not self.with_role("numeric"):
            raise ValueError("columns: at least one numeric column in a profile")
        if (self.kind == "events") != (self.template is not None):
            raise ValueError("template: required for events, absent for a profile")
        if self.kind == "events" and self.lookback_days is not None:
            raise ValueError("lookback_days: only for a profile")
        self._check_template(names)
        return self

    def _check_template(self, names: list[str]) -> None:
        try:
            parts = self.template_fields
        except ValueError as error:
            raise ValueError(f"template: balanced braces ({error})") from None
        for _, field, _spec, conversion in string.Formatter().parse(self.template or ""):
            if field == "" or conversion:
                raise ValueError(f"template: {{{field}{'!' + conversion if conversion else ''}}} to be the name of a column, optionally with :log2")
        for _, field, spec in parts:
            if not field:
                continue
            if field not in names or self.column(field).role == "ignore":
                raise ValueError(f"template: {{{field}}} to name a column with a role other than ignore")
            if spec not in {"", "log2"} or (spec == "log2" and self.column(field).role != "numeric"):
                raise ValueError(f"template: {{{field}:{spec}}} without a format, or :log2 on a numeric column")


class CatalogHeader(Declaration):
    """`catalog.yaml`."""

    name: Name
    description: str = Field(min_length=1)
    time_zone: Zone
    delivery_lag: Duration  # a day's features wait this long after midnight for its rows
    hash_buckets: int = Field(default=65536, ge=256, le=2**24)  # ids of hashed categorical fields; 0 is padding
    sources: tuple[Name, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> "CatalogHeader":
        if len(set(self.sources)) != len(self.sources):
            raise ValueError("sources: each name once")
        return self


class Catalog(Declaration):
    """A checked catalog. `suites` holds each source's expectation suite as the text of its JSON file."""

    header: CatalogHeader
    sources: tuple[Source, ...]
    suites: dict[str, str]
    drift: DriftRules
    location: str

    @property
    def name(self) -> str:
        return self.header.name

    @property
    def time_zone(self) -> str:
        return self.header.time_zone

    @property
    def delivery_lag(self) -> timedelta:
        return keys.duration(self.header.delivery_lag)

    @property
    def events(self) -> tuple[Source, ...]:
        return tuple(s for s in self.sources if s.kind == "events")

    @property
    def profile(self) -> Source | None:
        return next((s for s in self.sources if s.kind == "profile"), None)

    def source(self, name: str) -> Source:
        found = next((s for s in self.sources if s.name == name), None)
        if found is None:
            known = ", ".join(s.name for s in self.sources)
            raise IdentifierError(f"source {name!r}: expected one of {known} (catalog {self.name})")
        return found

    def feature_layout(self) -> dict[str, Any]:
        """What the features mean, as JSON: a tokenizer is bound to exactly this."""
        return {
            "catalog": self.name,
            "hash_buckets": self.header.hash_buckets,
            "sources": [
                {
                    "name": s.name,
                    "kind": s.kind,
                    "num_ids": len(s.id_columns),
                    "num_values": len(s.value_names),
                    "max_events": s.max_events if s.kind == "events" else 1,
                    "timed": s.kind == "events",
                    "definition": s.definition,
                }
                for s in self.sources
            ],
        }
