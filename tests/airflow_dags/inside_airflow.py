"""Run by Airflow's own Python, never by pytest: answers about the DAGs, as JSON in a file (Airflow logs to the streams).

inside_airflow.py describe ANSWER           what DagBag parsed
inside_airflow.py run ANSWER CASES          runs DAGs as `airflow dags test` does, one after another, in this process
"""

import json
import os
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG


def setting(task: Any, name: str) -> Any:
    """Of a task, or of what it is mapped from."""
    return getattr(task, "partial_kwargs", {}).get(name, getattr(task, name, None))


def described_task(task: Any) -> dict[str, Any]:
    command = setting(task, "bash_command")
    mapped = dict.fromkeys(re.findall(r"\$(U2QT_(?:DAYS|FROM|TO|VERSION|CUTOFF))\b", command or ""), "each day's")
    return {
        "task_id": task.task_id,
        "operator": type(task).__name__,
        "command": command,
        "env": setting(task, "env") or mapped,
        "append_env": setting(task, "append_env"),
        "skips_on": list(setting(task, "skip_on_exit_code") or []),
        "retries": task.retries,
        "downstream": sorted(task.downstream_task_ids),
    }


def described(dag: DAG) -> dict[str, Any]:
    return {
        "tasks": [described_task(task) for task in dag.topological_sort()],
        "timetable": type(dag.timetable).__name__,
        "schedule": getattr(dag.timetable, "expression", None),
        "time_zone": str(getattr(dag.timetable, "timezone", None)),
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "doc_md": dag.doc_md,
    }


def parsed() -> DagBag:
    return DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])


def ran(case: dict[str, Any]) -> dict[str, Any]:
    """State and number of tries of every task, or why there was no run."""
    os.environ.update(case["env"])
    dag = parsed().dags[case["dag"]]  # anew, as each task's process does: a run's parameters stay in the DAG object (Airflow 3.3.2)
    for task in dag.tasks:
        task.retry_delay = timedelta(seconds=1)
    logical_date = datetime.fromisoformat(case["logical_date"]) if case["logical_date"] else None
    try:
        run = dag.test(logical_date=logical_date, run_conf=case["conf"])
    except Exception as error:  # the answer of cases that must not run
        return {"refused": f"{type(error).__name__}: {error}"}
    instances = sorted(run.get_task_instances(), key=lambda instance: instance.map_index)
    tasks = {named(instance): {"state": str(instance.state), "tries": instance.try_number} for instance in instances}
    mapped = [named(instance) for instance in instances if instance.map_index >= 0]
    return {"refused": None, "state": str(run.state), "tasks": tasks, "mapped": mapped}


def named(instance: Any) -> str:
    """A mapped task by what it shows instead of its index."""
    return instance.task_id if instance.map_index < 0 else f"{instance.task_id} {instance.rendered_map_index}"


def main(verb: str, answer: str, cases: str = "") -> None:
    if verb == "describe":
        bag = parsed()
        found: Any = {"import_errors": bag.import_errors, "dags": {name: described(dag) for name, dag in bag.dags.items()}}
    else:
        found = {name: ran(case) for name, case in json.loads(Path(cases).read_text()).items()}
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
