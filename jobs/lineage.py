"""OpenLineage: a START and a COMPLETE or FAIL event per stage of a run, through OpenLineage's own client (extra `lineage`).

Reported when the client's own variables are set (`OPENLINEAGE_URL`, `OPENLINEAGE_CONFIG`, `OPENLINEAGE__TRANSPORT__...`) or its file
`openlineage.yml` lies in the working directory or in `~/.openlineage`, and not otherwise. Tables are datasets, with the version read
or written and the rows written. A server that can't be reached costs one warning: lineage is a report, the day goes on.
Never holds user content.
"""

import importlib.util
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jobs.errors import BadInput, Infrastructure
from schemas.keys import Days

if TYPE_CHECKING:
    from openlineage.client import event_v2

LOG = logging.getLogger("u2qt")
TRANSPORT = "OPENLINEAGE__TRANSPORT"  # the first of the client's variables that say where to
PRODUCER = "urn:u2qt"
FLUSH = 10.0  # seconds for a transport that sends in the background
Variables = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRun:
    """What identifies a stage of a run."""

    stage: str
    run_id: str
    days: Days | None
    started: datetime
    root: str  # of the lakehouse

    @property
    def lineage_id(self) -> str:
        """The same facts give the same id: an event can be found again from the ledger's row."""
        days = f"{self.days.first}/{self.days.last}" if self.days else ""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}:{self.run_id}/{self.stage}/{days}/{self.started.isoformat()}"))


class Reporter:
    """OpenLineage's client, until it fails once: a server that is down must not cost a timeout per event."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.lost = False

    def emit(self, event: "event_v2.RunEvent") -> None:
        if self.lost:
            return
        retries = logging.getLogger("urllib3.connectionpool")  # it warns at each try; ours is one warning
        level = retries.level
        retries.setLevel(logging.ERROR)
        try:
            self.client.emit(event)
        except Exception as error:  # any of any transport
            self.lost = True
            LOG.warning("lineage: an event was not delivered (%s); no more are sent by this command, its work goes on", type(error).__name__)
        finally:
            retries.setLevel(level)


@contextmanager
def reported() -> Iterator[None]:
    """Around a command. Raises at once where lineage is configured and can't be reported; at the end, sends what still waits."""
    reporter = _current()
    try:
        yield
    finally:
        if reporter is not None and not reporter.lost and not reporter.client.close(FLUSH):
            LOG.warning("lineage: events still waited to be delivered after %.0f s; they are lost", FLUSH)
        _reporter.cache_clear()


def start(run: StageRun) -> None:
    """Raises `Infrastructure` when lineage is configured and its client is not installed, `BadInput` for a configuration of no use."""
    reporter = _current()
    if reporter is not None:
        reporter.emit(_event(run, "START", run.started))


def end(run: StageRun, *, read: Mapping[str, int], written: Mapping[str, int], rows: Mapping[str, int], error: str | None, seconds: float) -> None:
    """COMPLETE, or FAIL with the words that the ledger has; tables with their versions."""
    reporter = _current()
    if reporter is None:
        return
    from openlineage.client import event_v2
    from openlineage.client.facet_v2 import error_message_run
    from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet

    event = _event(run, "COMPLETE" if error is None else "FAIL", run.started + timedelta(seconds=seconds))
    if error is not None:
        _facets(event.run)["errorMessage"] = error_message_run.ErrorMessageRunFacet(message=error, programmingLanguage="PYTHON")
    event.inputs = [event_v2.InputDataset(**_dataset(run.root, table, version)) for table, version in sorted(read.items())]
    event.outputs = []
    for table, version in sorted(written.items()):
        count = output_rows(table, rows)
        facts: dict[str, Any] = {} if count is None else {"outputStatistics": OutputStatisticsOutputDatasetFacet(rowCount=count)}
        event.outputs.append(event_v2.OutputDataset(**_dataset(run.root, table, version), outputFacets=facts))
    reporter.emit(event)


def output_rows(table: str, rows: Mapping[str, int]) -> int | None:
    """The ledger's hop that counts what was written to `table`; None where none does."""
    for prefix, outcome in (("source_", "clean"), ("quarantine_", "quarantined")):
        if table.startswith(prefix):
            return rows.get(f"{table.removeprefix(prefix)}.{outcome}")
    return rows.get("superseded" if table == "user_tokens_superseded" else table)


def dataset_name(root: str, table: str) -> tuple[str, str]:
    """Namespace and name by OpenLineage's naming rules: (`file`, /lake/runs), (`s3://bucket`, lake/runs)."""
    parts = urlsplit(root)
    if not parts.scheme:
        return "file", f"{root}/{table}"
    scheme = "s3" if parts.scheme in ("s3a", "s3n") else parts.scheme
    return f"{scheme}://{parts.netloc}", f"{parts.path}/{table}".lstrip("/")


def _dataset(root: str, table: str, version: int) -> dict[str, Any]:
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    namespace, name = dataset_name(root, table)
    return {"namespace": namespace, "name": name, "facets": {"version": DatasetVersionDatasetFacet(datasetVersion=str(version))}}


def _event(run: StageRun, state: str, moment: datetime) -> "event_v2.RunEvent":
    from openlineage.client import event_v2
    from openlineage.client.facet_v2 import nominal_time_run

    namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "u2qt"
    event = event_v2.RunEvent(
        eventType=event_v2.RunState[state],
        eventTime=moment.isoformat(),
        run=event_v2.Run(runId=run.lineage_id),
        job=event_v2.Job(namespace=namespace, name=run.stage),
        producer=PRODUCER,
    )
    if run.days is not None:
        after = run.days.last + timedelta(days=1)
        nominal = nominal_time_run.NominalTimeRunFacet(nominalStartTime=f"{run.days.first}T00:00:00Z", nominalEndTime=f"{after}T00:00:00Z")
        _facets(event.run)["nominalTime"] = nominal
    return event


def _facets(run: "event_v2.Run") -> dict[str, Any]:
    assert run.facets is not None, "the client makes an empty mapping"
    return run.facets


def _current() -> Reporter | None:
    """By the variables and files as they are now; None where none says where to."""
    variables = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("OPENLINEAGE")))
    given = dict(variables)
    files = tuple(str(path) for path in (Path("openlineage.yml").absolute(), Path("~/.openlineage/openlineage.yml").expanduser()) if path.is_file())
    configured = files or given.get("OPENLINEAGE_URL") or given.get("OPENLINEAGE_CONFIG") or any(name.startswith(TRANSPORT) for name in given)
    if not configured or given.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return None
    return _reporter(variables, files)


@lru_cache(maxsize=1)
def _reporter(variables: Variables, files: tuple[str, ...]) -> Reporter:
    named = ", ".join((*(name for name, _ in variables), *files))
    if importlib.util.find_spec("openlineage") is None or importlib.util.find_spec("openlineage.client") is None:
        raise Infrastructure(f"lineage: found {named}, but openlineage-python is not installed; install u2qt[lineage], or remove the setting")
    config = dict(variables).get("OPENLINEAGE_CONFIG")
    if config and not Path(config).is_file():  # the client would go on without a word and print events
        raise BadInput(f"lineage: OPENLINEAGE_CONFIG={config}: found no file there, expected OpenLineage's YAML; correct or unset it")
    from openlineage.client import OpenLineageClient

    before = dict(os.environ)
    try:
        client = OpenLineageClient()
        wanted = (client.config.transport or {}).get("type")
    except Exception as error:  # its configuration is checked by whichever transport it names
        raise BadInput(f"lineage: {named}: not a configuration that OpenLineage's client takes ({type(error).__name__}); correct or remove it") from None
    finally:  # the client writes aliases of OPENLINEAGE_URL into the environment
        for name in set(os.environ) - set(before):
            del os.environ[name]
    if client.transport.kind == "console" and wanted != "console":
        raise BadInput(f"lineage: {named}: names no transport, expected OPENLINEAGE_URL or a transport with its type; correct or remove it")
    return Reporter(client)
