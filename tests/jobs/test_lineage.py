"""OpenLineage events, written by its own file transport and read back."""

import http.server
import json
import logging
import os
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest

from jobs import event_log, lineage, validate_sources
from jobs.context import Context
from jobs.errors import BadInput, GateRefused, Infrastructure
from jobs.ledger import record_stage
from jobs.lineage import StageRun
from schemas.keys import Days
from tests.conftest import PUBLISHED

DAY = Days(PUBLISHED.first, PUBLISHED.first)
RUN = StageRun(stage="encode_users", run_id="r", days=DAY, started=datetime(2024, 1, 2, 4, tzinfo=UTC), root="/lake")


@pytest.fixture
def published(published_few: Context) -> Context:
    """Three sources are enough here, and half the time."""
    return published_few


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client is configured to append to this file."""
    path = tmp_path / "lineage.jsonl"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(path))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    return path


def closed_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return int(closed.getsockname()[1])


def parsed(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_stage_starts_and_completes_with_tables_versions_and_rows(writable: Context, events: Path) -> None:
    """Of a real validation: one run id, its tables by path and version, the ledger's rows of each."""
    validate_sources.run(writable, DAY, force=True)
    start, complete = parsed(events)
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert (complete["job"]["namespace"], complete["job"]["name"]) == ("u2qt", "validate_sources")
    assert complete["run"]["facets"]["nominalTime"]["nominalEndTime"] == "2024-01-02T00:00:00Z"
    outputs = {output["name"]: output for output in complete["outputs"]}
    bill = outputs[f"{writable.lake.root}/source_bill"]
    assert bill["namespace"] == "file"
    assert bill["facets"]["version"]["datasetVersion"] == str(writable.lake.version("source_bill"))
    clean = writable.lake.read("source_bill").where(f"delivered_ds = DATE'{DAY.first}'").count()
    assert bill["outputFacets"]["outputStatistics"]["rowCount"] == clean > 0


def test_a_refused_stage_fails_with_the_ledger_s_words(ready: Context, events: Path) -> None:
    """An unexpected error's text, which could quote a row, is not told. What was read until then is."""

    def audit() -> None:
        with record_stage(ready, "audit_tokens", DAY) as record:
            record.read["user_features"] = 4
            raise GateRefused("not like the days before")

    with pytest.raises(GateRefused):
        audit()
    with pytest.raises(ZeroDivisionError), record_stage(ready, "join_labels", None):
        raise ZeroDivisionError("canary")
    _, refused, _, failed = parsed(events)
    assert [event["eventType"] for event in (refused, failed)] == ["FAIL", "FAIL"]
    assert [event["run"]["facets"]["errorMessage"]["message"] for event in (refused, failed)] == ["not like the days before", "ZeroDivisionError"]
    assert [(i["name"], i["facets"]["version"]["datasetVersion"]) for i in refused["inputs"]] == [(f"{ready.lake.root}/user_features", "4")]
    assert "nominalTime" not in failed["run"]["facets"]


def test_without_the_client_s_variables_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Path) -> None:
    """Not even its package is looked for; its own off switch works."""
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    lineage.start(RUN)
    monkeypatch.delenv("OPENLINEAGE_DISABLED")
    monkeypatch.delenv("OPENLINEAGE__TRANSPORT__TYPE")
    monkeypatch.delenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH")
    monkeypatch.delenv("OPENLINEAGE__TRANSPORT__APPEND")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with lineage.reported():
        lineage.start(RUN)
    assert not events.exists()


@pytest.mark.usefixtures("events")
def test_configured_but_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is worked on."""
    lineage._reporter.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Infrastructure, match=r"OPENLINEAGE__TRANSPORT__TYPE.* install u2qt\[lineage\]"), lineage.reported():
        pytest.fail("the block was entered")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OPENLINEAGE_CONFIG", "/nowhere.yml", "found no file there"),
        ("OPENLINEAGE__TRANSPORT__TYPE", "pigeon", "not a configuration"),
        ("OPENLINEAGE__TRANSPORT__URL", "http://localhost", "names no transport"),
    ],
)
def test_a_configuration_of_no_use_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    """The client itself would go on and print events."""
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=said), lineage.reported():
        pytest.fail("the block was entered")


def test_a_server_that_is_down_costs_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The work goes on, the next command tries again, and the environment is as it was."""
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{closed_port()}")
    before = dict(os.environ)
    with caplog.at_level(logging.WARNING, logger="u2qt"):
        for _ in range(2):
            with lineage.reported():
                lineage.start(RUN)
                lineage.end(RUN, read={}, written={"runs": 1}, rows={}, error=None, seconds=1.0)
    warnings = [record.getMessage() for record in caplog.records]  # of the client's own libraries too
    assert len(warnings) == 2
    assert "not delivered (ConnectionError)" in warnings[0]
    assert dict(os.environ) == before


def test_run_ids_are_of_the_facts() -> None:
    """Another stage, day or start is another run."""
    other = StageRun(stage="encode_users", run_id="r", days=None, started=RUN.started, root="/elsewhere")
    assert RUN.lineage_id == StageRun(stage="encode_users", run_id="r", days=DAY, started=RUN.started, root="/elsewhere").lineage_id
    assert RUN.lineage_id != other.lineage_id


@pytest.mark.parametrize(
    ("root", "expected"),
    [("/lake", ("file", "/lake/runs")), ("s3a://bucket/lake", ("s3://bucket", "lake/runs")), ("hdfs://host:8020/lake", ("hdfs://host:8020", "lake/runs"))],
)
def test_tables_are_named_by_openlineage_s_rules(root: str, expected: tuple[str, str]) -> None:
    """So that other tools' events of the same table meet ours."""
    assert lineage.dataset_name(root, "runs") == expected


def test_rows_are_those_written() -> None:
    """No hop of an input is taken for an output's."""
    rows = {"bill.clean": 5, "bill.quarantined": 2, "superseded": 1, "user_tokens": 9}
    tables = ("source_bill", "quarantine_bill", "user_tokens_superseded", "user_tokens", "audits")
    assert [lineage.output_rows(table, rows) for table in tables] == [5, 2, 1, 9, None]


class Server(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    posted: ClassVar[list[tuple[str, dict[str, object]]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.path, json.loads(body)))
        self.send_response(201)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Not on standard error."""


def test_a_server_receives_what_a_stage_did(ready: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """By HTTP, where OpenLineage's servers listen; the namespace is the client's variable."""
    Server.posted.clear()
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "payments")
        with lineage.reported(), record_stage(ready, "join_labels", DAY) as record:
            record.written["user_tokens"] = 7
            record.rows["user_tokens"] = 3
        server.shutdown()
    assert [path for path, _ in Server.posted] == ["/api/v1/lineage"] * 2
    start, complete = (event for _, event in Server.posted)
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert complete["job"]["namespace"] == "payments"  # type: ignore[index]
    (output,) = complete["outputs"]  # type: ignore[misc]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 3


def test_a_server_that_is_down_loses_no_row_of_the_ledger(
    ready: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both stages are done, the ledger says so; the log and standard error say once what was not delivered."""
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{closed_port()}")
    log = tmp_path / "events.jsonl"
    with event_log.written_to(str(log)), lineage.reported():
        for stage in ("encode_users", "audit_tokens"):
            with record_stage(ready, stage, DAY) as record:
                record.rows["user_tokens"] = 3
    assert {(row.stage, row.status) for row in ready.lake.read("runs").collect()} == {("encode_users", "done"), ("audit_tokens", "done")}
    assert capsys.readouterr().err.count("was not delivered") == 1
    events = [line["event"] for line in parsed(log)]
    assert sorted(events) == ["message", "stage_done", "stage_done", "stage_started", "stage_started"]


def test_the_client_s_file_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working directory, as the client looks for it; one without a transport is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openlineage.yml").write_text(f"transport:\n  type: file\n  log_file_path: {tmp_path}/events.jsonl\n  append: true\n", encoding="utf-8")
    with lineage.reported():
        lineage.start(RUN)
    assert parsed(tmp_path / "events.jsonl")[0]["job"]["name"] == "encode_users"
    (tmp_path / "openlineage.yml").write_text("tags: {}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"openlineage\.yml: names no transport"), lineage.reported():
        pytest.fail("the block was entered")
