"""One day on a real standalone master with two workers, by the documented command, from a folder without the sources."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import Row

from jobs import make_dist
from jobs.context import Context
from jobs.delta_tables import Lakehouse

REPOSITORY = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent
DAY = "2024-01-03"  # the last of the published fixture's days
QUICK = "-XX:TieredStopAtLevel=1"  # compiled less well and sooner: a third less work for so few rows
SIZE = (
    "--name nightly --driver-memory 1g --executor-memory 1g --conf spark.ui.enabled=false --conf spark.sql.codegen.wholeStage=false "
    "--conf spark.sql.shuffle.partitions=2 --conf spark.databricks.delta.snapshotPartitions=2 "
    f"--conf spark.driver.extraJavaOptions={QUICK} --conf spark.executor.extraJavaOptions={QUICK}"
)
GUARD = '{ "$@" < /dev/null; kill 0; } & read -r _; kill 0'  # the read ends with the pipe, the pipe with the test process
PATIENCE = 900.0  # seconds; the day takes about 60 on two free cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A running master and what its workers keep of each application."""

    url: str
    log: Path
    work: tuple[Path, ...]

    def tasks_run(self) -> list[int]:
        """Tasks that each worker's executors logged."""
        return [sum(log.read_text().count("Running task") for log in folder.glob("app-*/*/stderr")) for folder in self.work]


def environment(**added: str) -> dict[str, str]:
    """This process's, without what points at the sources or at this session's Spark."""
    ours = ("PYTHON", "PYSPARK", "SPARK", "U2QT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"SPARK_HOME": str(SPARK_HOME), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m", **added}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its children: asked first, so that a worker ends its executors, then killed."""
    for sign, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
    process.wait()


def daemon(log: Path, *command: str) -> subprocess.Popen[bytes]:
    """A Spark daemon in a process group of its own, which also ends when this process dies without a word."""
    guarded = ["bash", "-c", GUARD, "guard", str(SPARK_HOME / "bin" / "spark-class"), *command]
    with log.open("wb") as stream:
        return subprocess.Popen(guarded, stdin=subprocess.PIPE, stdout=stream, stderr=stream, env=environment(), start_new_session=True)


def logged(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> str:
    """The first match in `log`, once it is there."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(pattern, log.read_text()):
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"{log} never said {pattern!r}:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    package, here = "org.apache.spark.deploy", ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
    work = (folder / "one", folder / "two")
    started = [daemon(folder / "master.log", f"{package}.master.Master", *here)]
    try:
        url = logged(folder / "master.log", r"spark://127\.0\.0\.1:\d+", started[0])
        for path in work:
            started.append(daemon(path.with_suffix(".log"), f"{package}.worker.Worker", *here, "-c", "1", "-m", "2g", "-d", str(path), url))
        for path, process in zip(work, started[1:], strict=True):
            logged(path.with_suffix(".log"), "Successfully registered with master", process)
        yield Cluster(url=url, log=folder / "master.log", work=work)
    finally:
        for process in reversed(started):
            stop(process)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the dependencies but not the project: on a path from a .pth file, other .pth files are not read."""
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text(f"{SPARK_HOME.parent}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def root(published: Context, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the published lakehouse to write into; the checkpoint is the original's."""
    return Path(shutil.copytree(published.lake.root, tmp_path_factory.mktemp("copy") / "lake"))


@pytest.fixture(scope="module")
def variables(root: Path, simulated: Path, cluster: Cluster, python: Path) -> dict[str, str]:
    """What the documented command leaves to the site."""
    return {"MASTER": cluster.url, "SIZE": SIZE, "U2QT_PYTHON": str(python), "DS": DAY, "U2QT_ROOT": str(root), "U2QT_INPUT": str(simulated / "raw")}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds dist/ and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    make_dist.run(folder / "dist", REPOSITORY)
    return folder


def documented(title: str) -> str:
    """The first bash block of a section of docs/cluster.md."""
    section = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8").partition(f"\n## {title}\n")[2]
    return section.partition("```bash\n")[2].partition("```")[0]


def shell(command: str, folder: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs the command in `folder`, and ends whatever it started when time is up."""
    process = subprocess.Popen(
        ["bash", "-euc", command], cwd=folder, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, error = process.communicate(timeout=PATIENCE)
    finally:
        stop(process)  # type: ignore[arg-type]
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def codes(lake: Lakehouse, run_id: str) -> list[Row]:
    """What a run published for the day, without the run's own name."""
    rows = lake.read("user_tokens").where(f"ds = '{DAY}' AND run_id = '{run_id}'")
    return rows.drop("run_id").orderBy("user_id").collect()


def test_the_other_python_has_no_project(python: Path, elsewhere: Path) -> None:
    """Else the tests below would find the sources, and prove nothing of the zip."""
    done = subprocess.run([python, "-c", "import jobs"], cwd=elsewhere, env=environment(), capture_output=True, text=True, check=False)
    assert "No module named 'jobs'" in done.stderr


def test_a_day_by_the_documented_command(published: Context, root: Path, cluster: Cluster, elsewhere: Path, variables: dict[str, str]) -> None:
    """Both workers took part, settings given to spark-submit stood, and the tokens are those of the local run."""
    done = shell(documented("Standalone").strip() + " --run-id on-the-cluster --force", elsewhere, variables)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "Registered app nightly" in cluster.log.read_text()
    assert all(tasks > 0 for tasks in cluster.tasks_run())
    assert codes(Lakehouse(published.spark, str(root)), "on-the-cluster") == codes(published.lake, published.run_id) != []


def test_a_stage_without_delta_names_the_remedy(python: Path, elsewhere: Path) -> None:
    """`--packages` is easily forgotten, and Spark would only name some class. 30: the stage's own exit code comes through."""
    submit = f'"$SPARK_HOME/bin/spark-submit" --master local[1] --py-files dist/u2qt-*.zip --conf spark.pyspark.python={python}'
    done = shell(f"{submit} dist/jobs/init_lakehouse.py --root lake", elsewhere, {})
    assert done.returncode == 30, done.stdout + done.stderr[-4000:]
    assert "--packages io.delta:delta-spark_2.13:" in done.stdout  # spark-submit passes Python's standard error on as output


def test_a_master_after_the_file_is_refused(python: Path, elsewhere: Path) -> None:
    """It could not be obeyed any more: spark-submit has chosen its master before the file starts."""
    submit = f'"$SPARK_HOME/bin/spark-submit" --master local[1] --py-files dist/u2qt-*.zip --conf spark.pyspark.python={python}'
    done = shell(f"{submit} dist/jobs/u2qt.py status --ds {DAY} --master local[2]", elsewhere, {})
    assert done.returncode == 20, done.stdout + done.stderr[-4000:]
    assert "--master local[2]: found it after the .py file" in done.stdout
