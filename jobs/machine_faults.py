"""What the machine lacked, told from an exception and its causes: disk, memory, rights; and the way out.

Pure functions over the chain of exceptions, whose texts carry Java's own chain. Knows nothing of stages.
Right input on the wrong machine is no bug and no fault of the input: the command line ends it with `Infrastructure`.
"""

import errno
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.errors import Infrastructure, U2qtError

AGAIN = "then run the same command again; what was published stands, and no half of a day is visible"
DISK_OUT = f"free space there, or move what is full (the lakehouse: --root; Spark's scratch files: --conf spark.local.dir=FOLDER), {AGAIN}"
HEAP_OUT = f"give more by --conf spark.driver.memory=4g (on a cluster spark.executor.memory), or work on fewer days at once, {AGAIN}"
WORKER_OUT = f"give the machine more memory or fewer workers (--master 'local[1]'), raise spark.executor.pyspark.memory where it is set, {AGAIN}"
RIGHTS_OUT = f"let this user write there, or give another folder, {AGAIN}"
FILES_OUT = f"raise the limit (`ulimit -n 65536`), {AGAIN}"
FILE_OUT = f"restore that file from a copy (docs/operations.md says which can be made again), {AGAIN}"
CLUSTER_OUT = f"look at the master and its executors (the lines above, or their logs, say why they ended), {AGAIN}"
START_OUT = (
    f"the lines above say why: jars that can't be fetched (`u2qt doctor` says whether they are here), an option that Java refuses, too little memory; {AGAIN}"
)
JVM_OUT = f"the system may have killed it for memory (`dmesg | grep -i oom`): {HEAP_OUT}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """How a fault speaks in a text, what it is, and the way out."""

    pattern: re.Pattern[str]
    lack: str
    way_out: str
    expected: str = "room for the work"


SIGNS = (  # the first that is found counts: a full disk makes Java fail in other ways too
    Sign(
        pattern=re.compile(r"No space left on device|Disk quota exceeded|database or disk is full|StorageFull|not enough space on the disk"),
        lack="disk full",
        way_out=DISK_OUT,
    ),
    Sign(pattern=re.compile(r"Read-only file system"), lack="file system is read-only", way_out=RIGHTS_OUT),
    Sign(
        pattern=re.compile(
            r"Java heap space|GC overhead limit exceeded|Direct buffer memory|java\.lang\.OutOfMemoryError|SparkOutOfMemoryError|UNABLE_TO_ACQUIRE_MEMORY"
        ),
        lack="memory too small: Java's heap is full",
        way_out=HEAP_OUT,
    ),
    Sign(
        pattern=re.compile(r"INVALID_(DRIVER|EXECUTOR)_MEMORY|System memory \d+ must be at least"),
        lack="memory too small: Spark won't start with so little",
        way_out=HEAP_OUT,
    ),
    Sign(
        pattern=re.compile(
            r"\bMemoryError\b|ArrayMemoryError|ArrowMemoryError|Cannot allocate memory|can't allocate memory|CUDA out of memory|"
            r"failed to map segment from shared object|malloc of size \d+ failed"
        ),
        lack="memory too small: a Python process got no more",
        way_out=WORKER_OUT,
    ),
    Sign(
        pattern=re.compile(r"Python worker exited unexpectedly|Python worker failed to connect back|SIGKILL|exit(?:ed with)? code:? 137"),
        lack="a Python worker was killed, most often for memory",
        way_out=WORKER_OUT,
    ),
    Sign(pattern=re.compile(r"Too many open files"), lack="too many open files", way_out=FILES_OUT),
    Sign(pattern=re.compile(r"AccessControlException|AccessDeniedException|\(Permission denied\)"), lack="not permitted", way_out=RIGHTS_OUT),
    Sign(
        pattern=re.compile(
            r"FAILED_READ_FILE|Could not read footer|is not a Parquet file|found no readable parquet file|Parquet magic bytes not found|"
            r"StreamError: \S+( \(shard \d+ of \d+\))?: can't be (?:opened|read)"
        ),
        lack="a stored file can't be read, damaged or gone",
        way_out=FILE_OUT,
        expected="a whole file",
    ),
    Sign(
        pattern=re.compile(
            r"Cannot call methods on a stopped SparkContext|SparkContext was shut down|All masters are unresponsive|"
            r"Master removed our application|ExecutorLostFailure"
        ),
        lack="Spark has lost its cluster",
        way_out=CLUSTER_OUT,
        expected="a master and executors that answer",
    ),
    Sign(
        pattern=re.compile(r"JAVA_GATEWAY_EXITED"),
        lack="Spark's Java process did not start",
        way_out=START_OUT,
        expected="one that answers",
    ),
    Sign(
        pattern=re.compile(
            r"Answer from Java side is empty|Error while sending or receiving|An error occurred while trying to connect to the Java|"
            r"Connection\w*Error: [^\n]*\(py4j\)|Py4JError: An error occurred while calling \S+\s*\Z"
        ),
        lack="Spark's Java process has ended",
        way_out=JVM_OUT,
    ),
)
ERRNOS = {
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EROFS: "Read-only file system",
    errno.ENOMEM: "Cannot allocate memory",
    errno.EMFILE: "Too many open files",
    errno.EACCES: "(Permission denied)",
    errno.EPERM: "(Permission denied)",
}
PATH = re.compile(r"(?:(?<=[\s'\"(])|\A)(?:file:)?(/[^\s'\"():]+)")


@contextmanager
def told(room: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """A fault of the machine leaves the block as `Infrastructure`, which says how full the folders of `room` are; other errors as they are."""
    try:
        yield
    except Exception as error:
        fault = infrastructure_of(error, room)
        if fault is None:
            raise
        raise fault from error


def infrastructure_of(error: BaseException, room: Callable[[], Mapping[str, str]] = dict) -> Infrastructure | None:
    """`error` as a fault of the machine, or None where it is something else (then it stands).

    An error of ours among its causes counts before signs do. `room` is asked how full which folder is, for a full disk's message.
    """
    if isinstance(error, U2qtError):
        return None
    chain = list(_chain(error))
    ours = next((link for link in chain if isinstance(link, Infrastructure)), None)
    if ours is not None:
        return ours
    found = next(((sign, text) for sign in SIGNS for text in map(_text, chain) if sign.pattern.search(text)), None)
    return None if found is None else Infrastructure(_message(*found, room))


def _message(sign: Sign, text: str, room: Callable[[], Mapping[str, str]]) -> str:
    """Which lack, on which path, how full the folders in use are, and the way out."""
    match = sign.pattern.search(text)
    assert match is not None, "the sign was found by this pattern"
    start = text.rfind("\n", 0, match.start()) + 1
    line = text[start:].split("\n", 1)[0].strip()
    paths = PATH.findall(line) if sign.way_out in (DISK_OUT, RIGHTS_OUT, FILE_OUT) else []
    where = f" at /{paths[0].strip('/').rstrip('.')}" if paths else ""
    places = "; ".join(f"{place}: {state}" for place, state in room().items()) if sign.way_out == DISK_OUT else ""
    return f"{sign.lack}{where} (found {match[0]!r}{f'; {places}' if places else ''}), expected {sign.expected}; {sign.way_out}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and what it was raised while handling."""
    waiting, seen = [error], set[int]()
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [before for before in (link.__cause__, link.__context__) if before is not None]


def _text(error: BaseException) -> str:
    """What the error says, its kind first; a system error in the system's words, an error of Spark with its causes in Java."""
    try:
        said = f"{type(error).__name__}: {error}\n{getattr(error, '_stackTrace', '')}"
    except Exception as silent:  # an error of Java's is asked for its text, and Java may have ended
        return f"{type(error).__name__}: {_text(silent)}"
    if isinstance(error, OSError) and error.errno in ERRNOS:
        return f"{said} {error.filename or ''} {ERRNOS[error.errno]}"
    return f"{type(error).__name__}: {error} (py4j)" if isinstance(error, ConnectionError) and _raised_in("py4j", error) else said


def _raised_in(package: str, error: BaseException) -> bool:
    """Whether a frame of `package` stands in the error's traceback."""
    return any(str(frame.f_globals.get("__name__")).partition(".")[0] == package for frame, _ in traceback.walk_tb(error.__traceback__))
