"""What the day's report shows, as plain data. Holds counts, lengths, codes and row hashes.

There is no field for a user id or for content, so that none can reach the page.
"""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """What became of the rows of one source on the day of delivery."""

    source: str
    rows_in: int
    clean: int
    quarantined: int
    duplicates: int
    blocked: bool
    running: bool = False  # a validation began and did not end
    forgotten: int = 0  # refused, as users of theirs asked for it
    reasons: tuple[tuple[str, int], ...] = ()  # the most frequent codes with their rows; a row may have several

    @property
    def unclean_share(self) -> float:
        return (self.quarantined + self.duplicates) / self.rows_in if self.rows_in else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """How many of the day's active users used one source, and how much."""

    source: str
    kind: str  # events or profile
    users: int
    events: int
    histogram: tuple[int, ...]  # users with 1, 2, ... events; the last bin is open


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelUsage:
    """How one source used one level's codebook."""

    source: str
    source_order: int  # its place in the catalog
    level: int  # from 1
    shared_size: int  # of its codes, the first so many are shared by all sources
    codebook_size: int
    slices: int
    used: int
    outside: int  # codes that the codebook doesn't have
    perplexity: float
    top_share: float  # of the slices, by the most frequent code
    curve: tuple[float, ...]  # share of the slices per code, most frequent first, at most 64 columns of equal ranks

    @property
    def dead(self) -> int:
        return self.codebook_size - self.used

    @property
    def sharing(self) -> str:
        """`shared`, `128 shared` or nothing."""
        return "shared" if self.shared_size == self.codebook_size else f"{self.shared_size:,} shared" if self.shared_size else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The newest audit of the day's staged tokens."""

    success: bool
    evaluated: int
    rows: int
    staged_version: int
    suite_hash: str
    failures: str  # JSON, as table audits holds it
    audits: int  # of this day and tokenizer, this one included
    drift: tuple[str, ...] = ()  # how the day differs from the days before it: what warned or blocked, what is unknown
    blocked: bool = False  # by a gate on the days before it


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSlice:
    """One user's slice of one source."""

    source: str
    kind: str
    events: int
    characters: int | None  # None for a profile
    tokens: tuple[tuple[int, str], ...]  # code and token name per level


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleUser:
    row_hash: str
    slices: tuple[SampleSlice, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRow:
    """One row of the ledger."""

    stage: str
    status: str
    started: str  # UTC
    seconds: float
    rows: tuple[tuple[str, int], ...]
    days: int  # that the row worked on together
    run_id: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerInfo:
    version: str
    fingerprint: str
    trained_from: date
    trained_through: date
    promoted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelQuality:
    """What training measured of one level of a source."""

    level: int  # from 1
    error: float  # relative squared, after this level, on held-out users
    codes: int
    dead: int
    perplexity: float
    gini: float
    margin_p10: float | None  # None without slices
    margin_p50: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceQuality:
    """What training measured of one source."""

    source: str
    slices: int
    unique_sequence_rate: float
    collision_rate: float
    levels: tuple[LevelQuality, ...]
    shared: bool = False  # of the shared codes, as all sources together use them


@dataclass(frozen=True, kw_only=True, slots=True)
class DayBar:
    """One of the last days."""

    ds: date
    published: int  # users
    state: str  # done, refused or missing


@dataclass(frozen=True, kw_only=True, slots=True)
class DayReport:
    """Everything the page shows. `encoded` and `published` count rows of `tokenizer`, and are 0 without one."""

    ds: date
    catalog: str
    deliveries: tuple[Delivery, ...]
    users: int
    activity: tuple[Activity, ...]
    tokenizer: TokenizerInfo | None
    encoded: int
    published: int
    quality: tuple[SourceQuality, ...]  # of `tokenizer`
    usage: tuple[LevelUsage, ...]
    usage_table: str  # where the codes were read: user_tokens or staged_user_tokens
    audit: Audit | None
    samples: tuple[SampleUser, ...]
    stages: tuple[StageRow, ...]
    table_versions: tuple[tuple[str, int], ...]
    days: tuple[DayBar, ...] = ()  # the last 30 up to `ds`, as far as the ledger goes back

    def total(self, outcome: str) -> int:
        """Sum of `rows_in`, `clean`, `quarantined`, `duplicates` or `forgotten` over the sources."""
        return sum(int(getattr(delivery, outcome)) for delivery in self.deliveries)
