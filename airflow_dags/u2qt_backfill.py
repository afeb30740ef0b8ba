"""u2qt_backfill: the days that `u2qt plan` finds missing or stale, one mapped task a day or chunk of days. Triggered by hand.

Knows nothing of u2qt but its command line; values of a run reach the commands through the environment, never through
their text.
"""

import json
import os
from datetime import date, timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Context, Param, RetryDecision, RetryPolicy, task

TASKS_AT_ONCE = int(os.environ.get("U2QT_BACKFILL_AT_ONCE", "1"))  # with more than one, a later day may end before an earlier one
MOST_DAYS = 366  # of one task
INFRASTRUCTURE = 30  # the one exit code that another try can change
SETTINGS = """\
: "${U2QT_ROOT:?expected the lakehouse, an absolute path or URI}" "${U2QT_INPUT:?expected the folder of raw input, an absolute path or URI}"
"""
OPTIONS = '${U2QT_VERSION:+--tokenizer-version "$U2QT_VERSION"} ${U2QT_CUTOFF:+--cutoff "$U2QT_CUTOFF"}\n'
PLAN = SETTINGS + 'exec "${U2QT_BIN:-u2qt}" plan --from "$U2QT_FROM" --to "$U2QT_TO" --format days ' + OPTIONS
BACKFILL = SETTINGS + 'exec "${U2QT_BIN:-u2qt}" backfill --from "$U2QT_FROM" --to "$U2QT_TO" --days-at-once "$U2QT_DAYS" ' + OPTIONS
DOC = """\
What the command `backfill` does, from Airflow: `plan_days` asks which days of `from` to `to` are missing, failed or stale, and `backfill_day` is mapped over
them, oldest first. Each task does one day, or `days_at_once` days that follow each other in one job a stage, with the stages that are due; a day that is
done by then is nothing to do. So the DAG may be triggered again at any time, and after a failure it goes on with what is left. A task starts Spark, some
20 seconds: for a long history take 31 days at once, where memory and temporary disk allow it.

**Order**: Airflow *starts* mapped tasks by their index, which is the order of the days, and one at a time (`U2QT_BACKFILL_AT_ONCE`, of the scheduler, raises
that). It does not *guarantee* that a day ends before a later one starts: a task that waits for another try, or that was cleared, lets later ones pass, a
failed day does not stop them, and with more than one at once they overlap. No rows are harmed; but a day that is audited before the
days before it are published is compared with fewer days by its drift gates, and a day with rows of another day whose validation was cut short
is refused until that one is validated. Who needs strict order runs `u2qt backfill --from D --to D`, which does oldest days first, goes on
past a day that a gate refuses and ends at any other failure.

**History for a new tokenizer**: give `tokenizer_version`; without it the promoted version's days are looked at, and days that some version has
published are left as they are. **Late rows**: they count up to `cutoff`, by default up to what is validated.

**Settings** (environment of the workers): `U2QT_ROOT`, `U2QT_INPUT`, `U2QT_CATALOG`, `U2QT_BIN` as for `u2qt_daily`. At most 1,024 days in one run
(Airflow's `max_map_length`).

### Triage
Start with `u2qt plan --from D --to D`: it says for each day and stage why it is due.

| exit | means | retried |
|---|---|---|
| 10 | a gate refused that day; nothing of it was published | never |
| 20 | bad input: an undelivered day, a version that is not registered, a wrong day | never |
| 30 | infrastructure: Java, disk, memory, permissions, another run on that day | twice, 5 minutes apart |
| 1 | a bug; the log has a traceback | never |

| symptom | cause | command |
|---|---|---|
| `plan_days` found nothing, no `backfill_day` | nothing is due | `u2qt plan --from D --to D` |
| `backfill_day` of one day, exit 10 | its gate | `u2qt status --ds D`; mend it, then clear the task |
| `backfill_day`, exit 10, "the validation of E did not end" | day E's validation was killed, and has rows of D | `u2qt validate --ds E`, or trigger again |
| `backfill_day`, exit 20, "not validated" or no input | the day was never delivered | ask the source's owner, then clear the task |
| `backfill_day`, exit 30, memory or disk | too many days share a job | trigger again with a smaller `days_at_once` |
| `backfill_day`, exit 30, "one driver" | the lakehouse lies on a store where parallel days could overwrite each other's commits | `u2qt doctor` with the root |
| `days_to_do` failed | the last line of the plan's output is no list of days | look at the log of `plan_days` |
"""


class RetryInfrastructure(RetryPolicy):
    """Tries again after exit code 30 alone. BashOperator says the code in its message only; an unknown message fails."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None) -> RetryDecision:
        if str(exception).endswith(f"exit code {INFRASTRUCTURE}."):
            return RetryDecision.retry(reason="infrastructure")
        return RetryDecision.fail(reason="another try would end the same way")


RETRIES = {"retries": 2, "retry_delay": timedelta(minutes=5), "retry_policy": RetryInfrastructure(), "skip_on_exit_code": None}


def chunks(days: list[date], size: int) -> list[tuple[date, date]]:
    """First and last day of each task: days without a gap between them, at most `size`."""
    found: list[tuple[date, date]] = []
    for ds in days:
        if found and ds - found[-1][1] == timedelta(days=1) and (ds - found[-1][0]).days < size:
            found[-1] = (found[-1][0], ds)
        else:
            found.append((ds, ds))
    return found


@task(retries=0)
def days_to_do(plan: str, params: dict[str, Any]) -> list[dict[str, str]]:
    """The environment of each task, oldest day first, from the last line that the plan printed."""
    days, size = sorted(date.fromisoformat(day) for day in json.loads(plan)), int(params["days_at_once"])
    chosen = {"U2QT_VERSION": params["tokenizer_version"] or "", "U2QT_CUTOFF": params["cutoff"] or "", "U2QT_DAYS": str(size)}
    return [{"U2QT_FROM": first.isoformat(), "U2QT_TO": last.isoformat()} | chosen for first, last in chunks(days, size)]


def day(description: str) -> Param:
    return Param(type="string", format="date", pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$", maxLength=10, description=description)


with DAG(
    "u2qt_backfill",
    description="Days that are missing or stale, one task a day or chunk of days.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        "from": day("First day to look at, YYYY-MM-DD."),
        "to": day("Last day to look at, YYYY-MM-DD."),
        "tokenizer_version": Param(
            None, type=["null", "string"], pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", maxLength=63, description="Version to have on every day."
        ),
        "cutoff": Param(
            None, type=["null", "string"], pattern="^[0-9T:+Z.-]+$", maxLength=40, description="Late rows count up to this moment, ISO 8601 with offset."
        ),
        "days_at_once": Param(1, type="integer", minimum=1, maximum=MOST_DAYS, description="Days that share a task and its jobs."),
    },
    doc_md=DOC,
    tags=["u2qt"],
):
    planned = BashOperator(
        task_id="plan_days",
        bash_command=PLAN,
        env={
            "U2QT_FROM": "{{ params['from'] }}",
            "U2QT_TO": "{{ params.to }}",
            "U2QT_VERSION": "{{ params.tokenizer_version or '' }}",
            "U2QT_CUTOFF": "{{ params.cutoff or '' }}",
        },
        append_env=True,
        do_xcom_push=True,
        **RETRIES,
    )
    BashOperator.partial(
        task_id="backfill_day",
        bash_command=BACKFILL,
        append_env=True,
        do_xcom_push=False,
        max_active_tis_per_dag=TASKS_AT_ONCE,
        map_index_template="{{ task.env['U2QT_FROM'] }}{% if task.env['U2QT_TO'] != task.env['U2QT_FROM'] %} to {{ task.env['U2QT_TO'] }}{% endif %}",
        **RETRIES,
    ).expand(env=days_to_do(planned.output))
