"""Gates: hand-kept great-expectations suites, evaluated on written rows, failing closed.

A suite is JSON: {"name", "expectations": [...]}. An expectation is either a GX one ({"type", "kwargs"}) or a rule over rows
({"name", and one of "where", "where_any_source", "where_every_source"}), whose SQL condition no row may meet; the last two
are repeated for each source of a layout (of the `kinds` named) and joined by OR and by AND. ${...} are the layout's numbers
and names. Everything is parsed and checked before anything runs; what did not run has failed.
"""

import hashlib
import importlib
import json
import logging
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import ModuleType
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from jobs.errors import BadInput
from jobs.machine_faults import infrastructure_of
from jobs.query_sql import writing_node
from schemas import keys

ROW_RULE = "unexpected_rows_expectation"
RULE_FORMS = ("where", "where_any_source", "where_every_source")
JOIN = {"where_any_source": " OR ", "where_every_source": " AND "}


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """One checked expectation, without placeholders. `condition` is a row rule's SQL: rows that meet it are wrong."""

    label: str
    type: str
    kwargs: Mapping[str, Any]
    condition: str | None = None
    per_source: tuple[tuple[str, str], ...] = ()  # (source, its part of the condition)


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    name: str
    expectations: tuple[Expectation, ...]
    suite_hash: str  # sha256 of the suite as written, with its placeholders' values

    @property
    def columns(self) -> set[str]:
        """Every column that an expectation names as such; row rules name theirs in SQL."""
        return {column for expectation in self.expectations for column in _columns(expectation)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An expectation that did not hold or could not be evaluated. Counts and names only, never content."""

    expectation: str
    column: str | None
    unexpected: int | None  # rows that break it, where GX counts them
    cause: str = ""
    condition: str | None = None

    def __str__(self) -> str:
        where = f" on {self.column}" if self.column else ""
        count = "" if self.unexpected is None else f": {self.unexpected} unexpected"
        return f"{self.expectation}{where} failed{count}{self.cause and f' ({self.cause})'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteResult:
    success: bool
    written: int  # expectations the suite holds
    evaluated: int
    failures: tuple[Failure, ...]
    suite_hash: str


def load_suite(text: str, file: str, layout: Mapping[str, Any] | None = None, **values: int) -> Suite:
    """The suite in `text`, every expectation known and well formed. Raises `BadInput` with file, place, found, expected."""
    try:
        content = json.loads(text)
        written = content["expectations"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: found no readable suite ({error}), expected an object with name and expectations") from None
    unknown = set(content) - {"name", "expectations"}
    if unknown or not isinstance(written, list) or not written:
        raise BadInput(f"{file}: found {', '.join(sorted(unknown)) or 'no expectations'}, expected name and at least one expectation")
    expectations = tuple(_expectation(entry, f"{file}: expectations.{n}", layout or {}, values) for n, entry in enumerate(written))
    labels = [(e.label, json.dumps(e.kwargs, sort_keys=True)) for e in expectations]
    if len(set(labels)) != len(labels):
        raise BadInput(f"{file}: found the same expectation twice, expected each once")
    facts = json.dumps([content, layout, values], sort_keys=True)
    return Suite(name=str(content.get("name", file)), expectations=expectations, suite_hash=hashlib.sha256(facts.encode()).hexdigest())


def packaged_suite(name: str, layout: Mapping[str, Any], rows: int) -> Suite:
    """`expectations/<name>` for a layout (a catalog's features or a tokenizer's layout.json) and an exact number of rows."""
    text = (resources.files("expectations") / name).read_text(encoding="utf-8")
    return load_suite(text, f"expectations/{name}", layout, rows=rows)


def _expectation(entry: Any, where: str, layout: Mapping[str, Any], values: Mapping[str, int]) -> Expectation:
    forms = [form for form in RULE_FORMS if isinstance(entry, dict) and form in entry]
    if len(forms) == 1 and set(entry) <= {"name", "kinds", *forms}:
        parts = _source_conditions(entry, forms[0], where, layout, values)
        condition = JOIN[forms[0]].join(f"({part})" for _, part in parts) if parts else _filled(entry["where"], where, values)
        query = f"SELECT * FROM {{batch}} WHERE {condition}"  # noqa: S608 - from packaged text, checked names and integers
        return Expectation(label=entry["name"], type=ROW_RULE, kwargs={"unexpected_rows_query": query}, condition=condition, per_source=parts)
    if not isinstance(entry, dict) or not {"type", "kwargs"} == set(entry):
        raise BadInput(
            f"{where}: found {sorted(entry) if isinstance(entry, dict) else type(entry).__name__}, expected type and kwargs, or name and one of {RULE_FORMS}"
        )
    kwargs = {key: _value(value, where, values) for key, value in entry["kwargs"].items()}
    expectation = Expectation(label=entry["type"], type=entry["type"], kwargs=kwargs)
    _domain_object(expectation, where)
    return expectation


def _value(value: Any, where: str, values: Mapping[str, int]) -> Any:
    return int(_filled(value, where, values)) if isinstance(value, str) and value.startswith("${") else value


def _source_conditions(entry: Mapping[str, Any], form: str, where: str, layout: Mapping[str, Any], values: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    if form == "where":
        return ()
    kinds = entry.get("kinds")
    chosen = [s for s in layout.get("sources", ()) if kinds is None or s.get("kind") in kinds]
    if not chosen:
        # A catalog without a profile has nothing to break the profile's rule. Not `false`: Spark reads `t WHERE (false)` as an alias.
        return (("none", "1 = 0"),)
    return tuple((s["name"], _filled(entry[form], where, {**values, **_facts(s)})) for s in chosen)


def _facts(source: Mapping[str, Any]) -> dict[str, str]:
    """What ${...} may name: the source, and integers of the layout."""
    facts = {"source": keys.name(source["name"])}
    if "num_ids" in source:
        events = int(source.get("max_events", 1))
        facts |= {"max_events": str(events), "ids_length": str(events * int(source["num_ids"])), "values_length": str(events * int(source["num_values"]))}
    if "levels" in source:
        sizes = [str(int(level["codebook_size"])) for level in source["levels"]]
        facts |= {"num_levels": str(len(sizes)), "codebook_sizes": f"array({', '.join(sizes)})"}
    return facts


def _filled(text: str, where: str, values: Mapping[str, object]) -> str:
    try:
        return string.Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        raise BadInput(f"{where}: found the placeholder {error}, expected one of {', '.join(sorted(values))}") from None


def evaluate(rows: DataFrame, suite: Suite) -> SuiteResult:
    """Every expectation on `rows`. BOOLEAN_ONLY for all, then counts for the failures only: a passing gate stays cheap."""
    _require_reading(rows, suite)
    missing = [failure for e in suite.expectations for failure in _absent_columns(rows, e)]
    runnable = [e for e in suite.expectations if not any(f.expectation == e.label and f.column in _columns(e) for f in missing)]
    verdicts = _validate(rows, suite.name, runnable, "BOOLEAN_ONLY")
    failed = [e for e, verdict in zip(runnable, verdicts, strict=True) if verdict is None or not verdict["success"]]
    failures = [*missing, *_counted(rows, suite.name, failed)]
    evaluated = sum(verdict is not None and not _raised(verdict) for verdict in verdicts)
    if evaluated != len(suite.expectations) and not failures:
        failures.append(
            Failure(expectation="every expectation evaluated", column=None, unexpected=None, cause=f"{evaluated} of {len(suite.expectations)} were")
        )
    return SuiteResult(success=not failures, written=len(suite.expectations), evaluated=evaluated, failures=tuple(failures), suite_hash=suite.suite_hash)


def _require_reading(rows: DataFrame, suite: Suite) -> None:
    """A suite's SQL comes with the catalog: what writes, or starts a program (TRANSFORM), is refused before it runs."""
    for expectation in suite.expectations:
        query = expectation.kwargs.get("unexpected_rows_query")
        if query is None:
            continue
        try:
            node = writing_node(rows.sparkSession, str(query).replace("{batch}", "batch"))
        except PySparkException as error:
            raise BadInput(f"suite {suite.name}, {expectation.label}: found SQL that can't be read ({str(error).splitlines()[0][:200]})") from None
        if node is not None:
            raise BadInput(f"suite {suite.name}, {expectation.label}: found SQL that does not only read ({node}), expected a SELECT over {{batch}}")


def failing_row_hashes(rows: DataFrame, failure: Failure, limit: int) -> list[int]:
    """Up to `limit` row hashes of rows that break a row rule; nothing for expectations on whole columns or tables."""
    if failure.condition is None or "row_hash" not in rows.columns:
        return []
    return [row.row_hash for row in rows.where(failure.condition).select("row_hash").orderBy("row_hash").limit(limit).collect()]


def _columns(expectation: Expectation) -> list[str]:
    kwargs = expectation.kwargs
    return [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs] + list(kwargs.get("column_list", []))


def _absent_columns(rows: DataFrame, expectation: Expectation) -> list[Failure]:
    absent = [column for column in _columns(expectation) if column not in rows.columns]
    return [Failure(expectation=expectation.label, column=column, unexpected=None, cause="no such column") for column in absent]


def _validate(rows: DataFrame, name: str, expectations: Sequence[Expectation], result_format: str) -> list[dict[str, Any] | None]:
    """GX's verdict per expectation, in their order; None where GX returned none."""
    if not expectations:
        return []
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral", project_config=_in_memory())
    asset = context.data_sources.add_spark(name, persist=False).add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": rows})
    objects = [_domain_object(e, e.label, position) for position, e in enumerate(expectations)]
    answer = batch.validate(gx.ExpectationSuite(name=name, expectations=objects), result_format=result_format)
    verdicts: list[dict[str, Any] | None] = [None] * len(expectations)
    for result in answer.results:
        facts = {"success": result.success, "result": result.result, "exception_info": result.exception_info}
        verdicts[result.expectation_config.meta["position"]] = facts
        if _raised(facts):
            _require_machine(facts["exception_info"])
    return verdicts


def _require_machine(exception_info: Mapping[str, Any]) -> None:
    """Raises what GX caught where an expectation failed for the machine's sake: nothing was judged then, and the stage says what the machine lacks."""
    parts = [part for part in (exception_info, *exception_info.values()) if isinstance(part, Mapping)]
    text = "\n".join(str(part[name]) for part in parts for name in ("exception_message", "exception_traceback") if name in part)
    caught = RuntimeError(text)
    if infrastructure_of(caught) is not None:
        raise caught


def _raised(verdict: Mapping[str, Any]) -> bool:
    info = verdict.get("exception_info") or {}
    return bool(info.get("raised_exception", any(isinstance(part, dict) and part.get("raised_exception") for part in info.values())))


def _counted(rows: DataFrame, name: str, failed: Sequence[Expectation]) -> list[Failure]:
    """The failures with their counts; a rule over sources names the sources that break it."""
    failures = []
    for expectation, verdict in zip(failed, _validate(rows, name, failed, "SUMMARY"), strict=True):
        result = (verdict or {}).get("result") or {}
        broken = verdict is None or _raised(verdict)
        count = result.get("unexpected_count", result.get("observed_value"))
        failures.append(
            Failure(
                expectation=expectation.label,
                column=", ".join(_columns(expectation)) or _broken_sources(rows, expectation, broken),
                unexpected=count if isinstance(count, int) else None,
                cause="could not be evaluated" if broken else _bounds(expectation),
                condition=None if broken else expectation.condition,
            )
        )
    return failures


def _broken_sources(rows: DataFrame, expectation: Expectation, broken: bool) -> str | None:
    if broken or not expectation.per_source:
        return None
    return ", ".join(source for source, condition in expectation.per_source if not rows.where(condition).isEmpty()) or None


def _bounds(expectation: Expectation) -> str:
    """For counts of a table: what was expected. Value sets may hold content and are left out."""
    bounds = [f"{key} {expectation.kwargs[key]}" for key in ("value", "min_value", "max_value") if key in expectation.kwargs]
    return "expected " + ", ".join(bounds) if bounds else ""


def _domain_object(expectation: Expectation, where: str, position: int = 0) -> Any:
    _great_expectations()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        return ExpectationConfiguration(type=expectation.type, kwargs=dict(expectation.kwargs), meta={"position": position}).to_domain_obj()
    except Exception as error:  # GX raises its own and pydantic's errors here
        raise BadInput(
            f"{where}: found {expectation.type} with {sorted(expectation.kwargs)}, expected an expectation of great-expectations ({str(error).splitlines()[0]})"
        ) from None


def _in_memory() -> Any:
    """A configuration without progress bars and without the folder in /tmp that GX makes for each context."""
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

    defaults = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    return DataContextConfig(store_backend_defaults=defaults, progress_bars=ProgressBarsConfig(globally=False), analytics_enabled=False)


def _great_expectations() -> ModuleType:
    """GX without telemetry and without its log of every batch."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    great_expectations: ModuleType = importlib.import_module("great_expectations")

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return great_expectations
