"""u2qt_daily: one day of raw deliveries becomes published tokens, one `u2qt` command a stage.

Knows nothing of u2qt but its command line. Values of a run reach the commands through the environment, never through
their text, so that no value can become shell.
"""

import os
from collections.abc import Sequence
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Context, CronDataIntervalTimetable, Param, RetryDecision, RetryPolicy, chain

TIME_ZONE = os.environ.get("U2QT_TIME_ZONE", "Asia/Shanghai")  # the catalog's: a day ends there, not in UTC
SCHEDULE = os.environ.get("U2QT_SCHEDULE", "30 6 * * *")  # not before the catalog's delivery_lag has passed
INFRASTRUCTURE = 30  # the one exit code that another try can change
COMMAND = """\
: "${U2QT_ROOT:?expected the lakehouse, an absolute path or URI}" "${U2QT_INPUT:?expected the folder of raw input, an absolute path or URI}"
: "${U2QT_DS:?this run has no data interval; expected a day as params.ds}"
exec "${U2QT_BIN:-u2qt}" VERB --ds "$U2QT_DS"
"""
# An interval's start is kept in UTC, where 06:30 in Shanghai is still the day before.
DAY = f"{{% set start = data_interval_start | default(none) %}}{{{{ params.ds or (start.in_timezone('{TIME_ZONE}').to_date_string() if start else '') }}}}"
DOC = """\
Raw deliveries of one day -> clean rows -> features -> staged codes -> audit -> `user_tokens`. Every task is a `u2qt` command that
can be run by hand, and that may be run again: a stage replaces its day.

**Which day?** `params.ds` where it is given, else the day on which the data interval starts, in the catalog's time zone. A manual run
without `params.ds` takes the last complete interval *before* its logical date: give `{"ds": "2024-01-02"}` when you mean a day.

**Settings** (environment of the workers): `U2QT_ROOT` lakehouse, `U2QT_INPUT` raw input (both absolute: tasks run in a scratch folder),
`U2QT_CATALOG` catalog folder (default: the packaged six), `U2QT_BIN` the `u2qt` command (default: on the `PATH`); it may be a script
of yours that adds `--master` and `--conf`, `U2QT_LOG` a file for events, a JSON line each (`-`: the task's log). Of the scheduler too:
`U2QT_TIME_ZONE` (the catalog's) and `U2QT_SCHEDULE` (cron, after its `delivery_lag`).

### Triage
Start with `u2qt status --ds D`: it shows what arrived, how far the day came and what to run next. The task's log ends with the reason.

| exit | means | retried |
|---|---|---|
| 10 | a gate refused the data; nothing was published | never |
| 20 | bad input: an undelivered day, an unreadable file, a wrong setting | never |
| 30 | infrastructure: Java, disk, memory, permissions | twice, 5 minutes apart (`audit_tokens` never) |
| 1 | a bug; the log has a traceback | never |

| symptom | cause | command |
|---|---|---|
| `validate_sources`, exit 20 | a source was not delivered, or can't be read | ask its owner; then clear the task |
| … and its rows came after the day's cutoff | a day has rows that were there by then | `u2qt run-day --ds D --cutoff MOMENT`; mark the tasks as success |
| `validate_sources`, exit 10 | too few rows, or too many refused | `u2qt quarantine show --delivered-ds D`; mend source or declaration; clear the task |
| `build_user_features`, exit 10 | the feature table broke its suite | `u2qt validate --ds D`, then clear the task |
| `build_user_features`, exit 10, "the validation of E …" | day E's validation was killed, and has rows of D | `u2qt validate --ds E`, then clear the task |
| `encode_users`, exit 20 | no tokenizer is promoted, or its checkpoint was changed | `u2qt tokenizer list`, then `u2qt tokenizer promote V` |
| `encode_users`, exit 10 | the features are of a build that did not end well | clear `build_user_features` |
| `audit_tokens`, exit 20, "never encoded" | another version was promoted since `encode_users` | clear `encode_users` |
| `audit_tokens`, exit 10 | the staged codes broke their suite (the log says where) | `u2qt tokenizer show V`; after mending, clear `encode_users` |
| `audit_tokens`, exit 10, "not like" | the day is unlike those before | `u2qt report --ds D`; is it right? `u2qt publish --ds D --accept REASON` |
| `publish_tokens`, exit 10 | the stage has no passing audit of its present version | clear `audit_tokens` |
| a day was skipped | the scheduler was down; there is no catch-up | trigger with `{"ds": "D"}`, or `u2qt run-day --from D --to D` |
| published numbers look odd | | `u2qt report --ds D` |

To clear a task, open its run and clear it with everything downstream. `airflow tasks clear` without dates clears that task in *every* run.
"""


class RetryInfrastructure(RetryPolicy):
    """Tries again after exit code 30 alone. BashOperator says the code in its message only; an unknown message fails."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None) -> RetryDecision:
        if str(exception).endswith(f"exit code {INFRASTRUCTURE}."):
            return RetryDecision.retry(reason="infrastructure")
        return RetryDecision.fail(reason="another try would end the same way")


def stage(task_id: str, verb: str, *, retries: int = 2) -> BashOperator:
    return BashOperator(
        task_id=task_id,
        bash_command=COMMAND.replace("VERB", verb),
        env={"U2QT_DS": DAY},
        append_env=True,
        skip_on_exit_code=None,  # nothing but 0 is success
        do_xcom_push=False,
        retries=retries,
        retry_delay=timedelta(minutes=5),
        retry_policy=RetryInfrastructure(),
    )


def stages() -> Sequence[BashOperator]:
    """In the order in which they run."""
    return (
        stage("validate_sources", "validate"),
        stage("build_user_features", "build"),
        stage("encode_users", "encode"),
        stage("audit_tokens", "audit", retries=0),  # the gate before publishing: its answer stands
        stage("publish_tokens", "publish"),
    )


with DAG(
    "u2qt_daily",
    description="One day of behaviour becomes published user tokens.",
    schedule=CronDataIntervalTimetable(SCHEDULE, timezone=TIME_ZONE),
    catchup=False,
    max_active_runs=1,
    params={
        "ds": Param(
            None,
            type=["null", "string"],
            format="date",
            pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
            maxLength=10,  # `$` alone lets a line end through
            description="Day to run, YYYY-MM-DD; empty: the day of the data interval.",
        )
    },
    doc_md=DOC,
    tags=["u2qt"],
):
    chain(*stages())
