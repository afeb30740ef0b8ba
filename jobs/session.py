"""The Spark session: the only place that asks which machine this is.

On one machine: `local[*]`, Delta's jars, an in-memory catalog, settings for small data, workers that use this Python.
Under `spark-submit` or on a cluster the given settings stand and only what correctness needs is added (UTC, Delta).
"""

import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyspark
from delta import configure_spark_with_delta_pip
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from jobs.errors import BadInput, Infrastructure

JAVA_VERSIONS = (17, 21)
REMEDY = "install Java 17 (Debian/Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17) and set JAVA_HOME"
EXTENSIONS, CATALOG = "spark.sql.extensions", "spark.sql.catalog.spark_catalog"
CORRECTNESS = {
    "spark.sql.session.timeZone": "UTC",
    EXTENSIONS: "io.delta.sql.DeltaSparkSessionExtension",
    CATALOG: "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # other readers see UTC; INT96 has no zone
    "spark.sql.sources.partitionOverwriteMode": "static",
}


def build_session(master: str | None = None, conf: Mapping[str, str] | None = None) -> SparkSession:
    """A session for `master` (default: spark-submit's, else `local[*]`) with any `spark.*` setting of `conf`."""
    conf = checked_settings(conf)
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit sets it for the Python that it starts
        return _submitted(master, conf)
    return _own(master, conf)


def checked_settings(conf: Mapping[str, str] | None) -> dict[str, str]:
    for key in conf or {}:
        if not key.startswith("spark."):
            raise BadInput(f"--conf {key}: expected a setting that starts with 'spark.'")
    return dict(conf or {})


def _submitted(master: str | None, conf: dict[str, str]) -> SparkSession:
    """What spark-submit was given stands: master, name, resources, logging, a site's catalog and extensions."""
    if master is not None:
        raise BadInput(f"--master {master}: found it after the .py file, expected it among spark-submit's own options, before the file")
    SparkContext._ensure_initialized()  # connects to spark-submit's JVM, so that SparkConf sees its settings
    given = dict(SparkConf().getAll()) | conf
    _require_delta()
    return _configured(SparkSession.builder, CORRECTNESS | conf | delta_beside(given)).getOrCreate()


def _require_delta() -> None:
    jvm = SparkContext._jvm
    try:
        jvm.py4j.reflection.ReflectionUtil.classForName(CORRECTNESS[EXTENSIONS])  # type: ignore[union-attr]
    except Py4JJavaError:
        package = f"io.delta:delta-spark_2.13:{importlib.metadata.version('delta-spark')}"
        raise Infrastructure(f"Delta: spark-submit has no jars of it, expected --packages {package} before the .py file (docs/cluster.md)") from None


def delta_beside(given: Mapping[str, str]) -> dict[str, str]:
    """Delta's extension after those that a site has; a catalog that it has stands, for one that can't do Delta fails."""
    names = [name for name in given.get(EXTENSIONS, "").split(",") if name]
    extensions = [*names, *({CORRECTNESS[EXTENSIONS]} - set(names))]
    return {EXTENSIONS: ",".join(extensions), CATALOG: given.get(CATALOG, CORRECTNESS[CATALOG])}


def _own(master: str | None, conf: dict[str, str]) -> SparkSession:
    """A session that this process starts, with this Python for its workers."""
    check_java()
    os.environ.setdefault("SPARK_HOME", str(Path(pyspark.__file__).parent))
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = _with_delta_jars(SparkSession.builder.appName("u2qt").master(master or "local[*]"), conf)
    with importlib.resources.as_file(importlib.resources.files("jobs") / "log4j2.properties") as quiet:  # in a zip: a copy, for the JVM's start
        return _configured(builder, CORRECTNESS | _one_machine(master, quiet) | conf | delta_beside(conf)).getOrCreate()


def _configured(builder: SparkSession.Builder, settings: Mapping[str, str]) -> SparkSession.Builder:
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder


def check_java() -> int:
    """Major version of the Java that Spark will start. Raises `Infrastructure` with the remedy."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not Path(java).exists():
        where = f"JAVA_HOME={home} holds no bin/java" if home else "no java on the PATH"
        raise Infrastructure(f"Java: found none ({where}), expected version 17 or 21; {REMEDY}")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603  # the Java that Spark starts
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    found = int(match[1]) if match else 0
    if found not in JAVA_VERSIONS:
        raise Infrastructure(f"Java: found version {found or 'unknown'} at {java}, expected 17 or 21; {REMEDY}")
    return found


def _with_delta_jars(builder: SparkSession.Builder, conf: dict[str, str]) -> SparkSession.Builder:
    """Delta's jars from the Ivy cache where they are (saves 3 s a start), else through Maven Central."""
    if "spark.jars" in conf or "spark.jars.packages" in conf:
        return builder
    jars = cached_delta_jars()
    if jars:
        return builder.config("spark.jars", ",".join(jars))
    return configure_spark_with_delta_pip(builder)


def cached_delta_jars() -> list[str]:
    """Delta's three jars as Ivy left them, or nothing unless all three are there."""
    version = importlib.metadata.version("delta-spark")
    patterns = (f"io.delta_delta-spark_2.13-{version}.jar", f"io.delta_delta-storage-{version}.jar", "org.antlr_antlr4-runtime-4.13.1.jar")
    for folder in (".ivy2.5.2", ".ivy2"):
        jars = [Path.home() / folder / "jars" / pattern for pattern in patterns]
        if all(jar.is_file() for jar in jars):
            return [str(jar) for jar in jars]
    return []


def _one_machine(master: str | None, quiet: Path) -> dict[str, str]:
    """Settings for a session started by this process rather than by spark-submit."""
    cores = os.cpu_count() or 1
    scratch = tempfile.gettempdir()
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.warehouse.dir": f"{scratch}/u2qt-warehouse",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.hadoop.fs.permissions.umask-mode": f"{_umask():03o}",  # Hadoop has one of its own, 022, whatever the user's is
    }
    if master is None or master.startswith("local"):
        settings |= {
            "spark.driver.memory": f"{_driver_gigabytes()}g",
            "spark.sql.shuffle.partitions": str(2 * cores),
            "spark.databricks.delta.snapshotPartitions": str(cores),
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(cores),  # a task per folder would cost seconds
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={quiet.as_uri()}",
        }
    return settings


def _umask() -> int:
    """The user's; the system tells it only to who sets it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _driver_gigabytes() -> int:
    """A third of the machine's memory, between 1 and 8 GiB: in local mode the driver's heap is all there is."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(8, int(total / 3)))
