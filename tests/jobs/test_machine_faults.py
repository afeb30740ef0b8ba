"""What the machine lacked, told from literal messages as the parts of the stack give them."""

import errno
from pathlib import Path

import pytest
from py4j.clientserver import ClientServerConnection, JavaParameters, PythonParameters  # type: ignore[import-untyped]
from py4j.java_gateway import GatewayProperty  # type: ignore[import-untyped]
from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.errors import PythonException

from jobs.endings import as_told, model_error_of_a_worker
from jobs.errors import BadInput, Infrastructure
from jobs.machine_faults import infrastructure_of, told
from u2qt_model.errors import CheckpointError

JAVA = "An error occurred while calling o97.save.\n: org.apache.spark.SparkException: Job aborted.\n\tat org.apache.spark.Here\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{JAVA}Caused by: java.io.FileNotFoundException: /lake/_u2qt/x.json (No space left on device)\n\tat java.base", "disk full at /lake/_u2qt/x.json"),
        (f"{JAVA}Caused by: java.io.IOException: No space left on device", "disk full (found 'No space left on device')"),
        ("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device", "disk full"),
        ("database or disk is full", "disk full"),
        ('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "..." })', "disk full"),
        ("/mnt/u2qt/part-0.parquet (Read-only file system)", "read-only at /mnt/u2qt/part-0.parquet"),
        (f"{JAVA}Caused by: java.lang.OutOfMemoryError: Java heap space", "Java's heap is full"),
        ("java.lang.OutOfMemoryError: GC overhead limit exceeded", "--conf spark.driver.memory=4g"),
        ("[INVALID_DRIVER_MEMORY] System memory 134217728 must be at least 471859200.", "won't start with so little"),
        ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 8 TiB", "a Python process got no more"),
        ('  File "worker.py", line 9\nMemoryError\n', "a Python process got no more"),
        ("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.", "a Python process got no more"),
        ("ImportError: libtorch_cpu.so: failed to map segment from shared object", "a Python process got no more"),
        ("org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)", "a Python worker was killed"),
        ("ExecutorLostFailure (executor 1 exited caused by one of the running tasks) Command exited with code 137", "a Python worker was killed"),
        ("/lake/_u2qt/days/1.lock: Too many open files", "ulimit -n"),
        ("org.apache.hadoop.security.AccessControlException: Permission denied: user=b", "not permitted"),
        (
            "[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///lake/bill/part-0.parquet.  SQLSTATE: KD001",
            "can't be read, damaged or gone at /lake/bill/part-0.parquet",
        ),
        (
            "/lake/user_features/ds=2026-01-01/part-0.parquet: found no readable parquet file (Parquet magic bytes not found in footer), expected one",
            "can't be read, damaged or gone at /lake/user_features/ds=2026-01-01/part-0.parquet",
        ),
        ("pyarrow.lib.ArrowInvalid: Could not open /lake/x.parquet: Parquet magic bytes not found in footer.", "damaged or gone at /lake/x.parquet"),
        (
            "Traceback\nu2qt_model.errors.StreamError: file:///lake/user_features/part-0.parquet (shard 1 of 2): can't be read (Corrupt snappy), expected",
            "can't be read, damaged or gone at /lake/user_features/part-0.parquet",
        ),
        ("Answer from Java side is empty", "Spark's Java process has ended"),
        ("java.lang.IllegalStateException: Cannot call methods on a stopped SparkContext.", "Spark has lost its cluster"),
        ("Job aborted due to stage failure: ExecutorLostFailure (executor 1 exited): worker lost", "Spark has lost its cluster"),
        ("[JAVA_GATEWAY_EXITED] Java gateway process exited before sending its port number.", "Spark's Java process did not start"),
    ],
)
def test_a_fault_is_told_from_its_message(text: str, said: str) -> None:
    """Which lack, where it is known on which path, and a way out."""
    fault = infrastructure_of(RuntimeError(text))
    assert fault is not None
    assert said in str(fault)
    assert "run the same command again" in str(fault)
    assert len(str(fault).splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("invalid literal for int() with base 10: 'x'"),
        KeyError("disk"),
        AssertionError("memory of days to come"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
        BadInput("source bill: No space left on device is what a row said"),
    ],
)
def test_other_errors_stand(error: Exception) -> None:
    """A bug stays a bug, and an error of ours what it is, whatever its words."""
    assert infrastructure_of(error) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.EACCES, errno.EPERM])
def test_the_system_s_number_counts_in_any_language(number: int) -> None:
    """On a machine that speaks another language the words are others."""
    assert infrastructure_of(OSError(number, "Kein Speicherplatz mehr", "/lake/x")) is not None


def test_the_path_of_a_full_disk_is_named(tmp_path: Path) -> None:
    """As the system gave it; then how full the folders in use are."""
    fault = infrastructure_of(OSError(errno.ENOSPC, "No space left on device", str(tmp_path)), lambda: {"lakehouse /lake": "0.1 of 40.0 MiB free"})
    assert f"disk full at {tmp_path} (found 'No space left on device'; lakehouse /lake: 0.1 of 40.0 MiB free)" in str(fault)


def chained(inner: BaseException, outer: Exception, *, cause: bool) -> Exception:
    try:
        try:
            raise inner
        except BaseException as error:
            if cause:
                raise outer from error
            raise outer  # noqa: B904  # that is the point
    except Exception as error:
        return error


@pytest.mark.parametrize("cause", [True, False])
def test_the_whole_chain_is_searched(cause: bool) -> None:
    """The model package wraps system errors; a cleanup may fail after the fault and hide it."""
    error = chained(OSError(errno.ENOSPC, "No space left on device"), CheckpointError("/lake/v1: can't be written"), cause=cause)
    assert "disk full" in str(infrastructure_of(error))


def test_an_infrastructure_error_in_the_chain_is_the_one() -> None:
    """A cleanup that failed on a dead Java hides no message that was said before."""
    first = Infrastructure("disk full at /lake")
    assert infrastructure_of(chained(first, ConnectionError("Answer from Java side is empty"), cause=False)) is first


def test_an_error_that_can_t_say_what_it_is_counts_as_a_dead_java() -> None:
    """Errors of Java's ask Java for their text; when it has ended, that raises."""

    class Silent(Exception):
        def __str__(self) -> str:
            raise ConnectionError("Answer from Java side is empty")

    assert "Java process has ended" in str(infrastructure_of(Silent()))


def test_a_java_that_has_ended_is_known_by_who_could_not_reach_it() -> None:
    """py4j lets the socket's error through; the same error of another client is no word about Java."""
    with pytest.raises(ConnectionRefusedError) as refused:
        ClientServerConnection(JavaParameters(port=1), PythonParameters(), GatewayProperty(False, None), None).connect_to_java_server()  # nobody listens there
    assert "Java process has ended" in str(infrastructure_of(refused.value))
    assert infrastructure_of(ConnectionRefusedError(111, "Connection refused")) is None


def test_an_answer_that_was_lost_on_the_way_counts_as_a_dead_java_and_an_error_of_java_s_stands() -> None:
    assert "Java process has ended" in str(infrastructure_of(Py4JError("An error occurred while calling o97.collectToPython")))
    assert infrastructure_of(Py4JError("An error occurred while calling o97.apply. Trace:\njava.lang.ArithmeticException\n\tat Here")) is None


def test_an_error_of_the_model_package_in_a_worker_is_an_expected_one() -> None:
    """Spark hands it on as text; of another error in a worker nothing is taken for ours."""
    told = '\n  An exception was thrown from the Python worker.\nTraceback:\n  File "worker.py", line 1\n{}: text model m: not there\n'
    found = as_told(PythonException(message=told.format("u2qt_model.errors.EncoderError")))
    assert isinstance(found, BadInput)
    assert str(found) == "text model m: not there"
    other = PythonException(message=told.format("builtins.ValueError"))
    assert as_told(other) is other
    assert model_error_of_a_worker(ValueError("\nu2qt_model.errors.EncoderError: said a row")) is None


def test_a_fault_in_a_block_says_how_full_the_folders_are_and_others_pass() -> None:
    """Also where no stage is at work, as when a lease is written."""
    with pytest.raises(Infrastructure, match=r"disk full .*lakehouse /lake: 0\.0 of 40\.0 MiB free"), told(lambda: {"lakehouse /lake": "0.0 of 40.0 MiB free"}):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ZeroDivisionError), told(dict):
        raise ZeroDivisionError
