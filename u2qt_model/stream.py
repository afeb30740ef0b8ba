"""Feature rows from parquet files through Petastorm, one batch per row group. The only module that imports Petastorm.

Texts and ids are BINARY columns, which arrive as exact `bytes`; fixed-length lists arrive as 2-d arrays. Petastorm is
pointed at named files, never at a folder: a Delta folder also holds removed files.
"""

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow
import pyarrow.parquet as pq
from numpy.typing import NDArray

from u2qt_model.batch import FeatureBatch
from u2qt_model.config import FeatureLayout
from u2qt_model.errors import StreamError

KEYS = ("user_id", "row_hash", "available_at")  # columns that travel beside the features
# What Petastorm lets through for a damaged page, a ragged list and (AttributeError) a null list.
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, AttributeError)
# What it lets through for a file that is none, a table with none of the columns, and (IndexError) a folder.
UNOPENABLE = (OSError, pyarrow.ArrowInvalid, RuntimeError, IndexError)
LEGACY = r"(.*use_legacy_dataset|.*ParquetDataset|.*metadata_nthreads|.*ParquetDatasetPiece|pyarrow\.localfs)"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamUnit:
    """A unit of work: the row groups i of one file with i % shards == shard; by default the whole file."""

    url: str  # percent-encoded, as Spark's inputFiles() gives it
    shard: int = 0
    shards: int = 1  # at most the file's row groups; where they are equal, a unit is one row group
    rows: int | None = None  # expected; another number is a StreamError


def read_units(units: Iterable[StreamUnit], layout: FeatureLayout, *, events: bool = False, keys: tuple[str, ...] = KEYS) -> Iterator[FeatureBatch]:
    """One batch per row group, in the order of units and row groups; `events` adds the event arrays.

    Raises StreamError for a URL or file that can't be read and for a unit with another number of rows than it promised.
    """
    columns = [*keys, *layout.columns(events=events)]
    for unit in units:
        rows = 0
        for batch in _batches(unit, columns):
            rows += len(batch[columns[0]])
            yield FeatureBatch.from_columns(batch, layout)
        if unit.rows is not None and rows != unit.rows:
            raise StreamError(f"{_named(unit)}: found {rows} rows, expected {unit.rows}")


def read_files(urls: Iterable[str], layout: FeatureLayout, *, events: bool = False, keys: tuple[str, ...] = KEYS) -> Iterator[FeatureBatch]:
    """All rows of all files, in their order; row counts are checked against each file's footer."""
    whole = (StreamUnit(url=url, rows=sum(row_group_rows(url))) for url in urls)
    return read_units(whole, layout, events=events, keys=keys)


def units_of(url: str) -> tuple[StreamUnit, ...]:
    """One unit per row group of a local file, with the rows that its footer promises."""
    groups = row_group_rows(url)
    return tuple(StreamUnit(url=url, shard=i, shards=len(groups), rows=rows) for i, rows in enumerate(groups))


def row_group_rows(url: str) -> tuple[int, ...]:
    """Rows of each row group, from a local file's footer."""
    path = urlsplit(petastorm_url(url)).path
    try:
        metadata = pq.ParquetFile(path).metadata
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise StreamError(f"{path}: found no readable parquet file ({error}), expected one") from error
    return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


def petastorm_url(url: str) -> str:
    """The URL in Petastorm's form: `file:///` and the path undecoded. StreamError for what Petastorm can't open.

    Spark percent-encodes paths, Petastorm takes them literally.
    """
    scheme, separator, rest = url.partition(":")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]+", scheme):
        raise StreamError(f"{url}: found no scheme, expected a URL such as file:///lakehouse/user_features/part-0.parquet")
    if scheme == "file" and not re.match(r"(//)?/(?!/)", rest):
        raise StreamError(f"{url}: found another host or a relative path, expected file:///...")
    path = unquote(re.sub(r"^//", "", rest) if scheme == "file" else rest)
    wrong = sorted(set(path) & set("#?;"))
    if wrong:
        raise StreamError(f"{url}: found {wrong[0]!r} in the path, which Petastorm can't open; move the lakehouse")
    return f"file://{path}" if scheme == "file" else f"{scheme}:{path}"


def _batches(unit: StreamUnit, columns: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """Columns of each row group of the unit."""
    with _legacy_warnings_silenced():
        from petastorm import make_batch_reader
        from petastorm.errors import NoDataAvailableError

    sharded: dict[str, int] = {"cur_shard": unit.shard, "shard_count": unit.shards} if unit.shards > 1 else {}
    try:
        with _legacy_warnings_silenced():
            reader = make_batch_reader(
                [petastorm_url(unit.url)],
                schema_fields=[f"^{re.escape(column)}$" for column in columns],
                reader_pool_type="dummy",
                num_epochs=1,
                shuffle_row_groups=False,
                **sharded,
            )
    except NoDataAvailableError as error:
        raise StreamError(f"{_named(unit)}: found fewer row groups than shards ({error})") from error
    except UNOPENABLE as error:
        raise StreamError(f"{_named(unit)}: can't be opened ({error}), expected a readable parquet file with {columns[0]}") from error
    with reader:
        yield from _drain(reader, unit, columns)


def _drain(reader: Any, unit: StreamUnit, columns: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
    while True:
        try:
            with _legacy_warnings_silenced():
                group = next(reader)
        except StopIteration:
            return
        except UNREADABLE as error:
            raise StreamError(f"{_named(unit)}: can't be read ({error}), expected equally long lists without nulls") from error
        missing = [column for column in columns if column not in group._fields]
        if missing:
            raise StreamError(f"{_named(unit)}: {missing[0]}: column missing, found {sorted(group._fields)}")
        yield {column: np.asarray(getattr(group, column)) for column in columns}


def _named(unit: StreamUnit) -> str:
    return unit.url if unit.shards == 1 else f"{unit.url} (shard {unit.shard} of {unit.shards})"


@contextmanager
def _legacy_warnings_silenced() -> Iterator[None]:
    """Drops what Petastorm 0.12.1 says of the legacy dataset, of files it leaves to refcounting and of a file without
    row groups (rows are counted here); others pass.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=LEGACY, category=FutureWarning)
        warnings.filterwarnings("ignore", message="unclosed file", category=ResourceWarning)
        warnings.filterwarnings("ignore", message="No matching data is available", category=UserWarning)
        yield
