"""u2qt_train: a new tokenizer version from days that are built, promoted only when asked. Triggered by hand.

Knows nothing of u2qt but its command line; values of a run reach the commands through the environment, never through
their text.
"""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param, task

ROOT = ': "${U2QT_ROOT:?expected the lakehouse, an absolute path or URI}"\n'
TRAIN = 'exec "${U2QT_BIN:-u2qt}" train --from "$U2QT_FROM" --to "$U2QT_TO" --tokenizer-version "$U2QT_VERSION" --size "$U2QT_SIZE"\n'
PROMOTE = 'exec "${U2QT_BIN:-u2qt}" tokenizer promote "$U2QT_VERSION" --reason "u2qt_train"\n'
DOC = """\
Learns `tokenizer_version` from the feature rows of `from` to `to` and, only with `promote`, makes it the one that
`user_tokens_current` shows. Labels up to the day `to` must not be joined with its tokens: they would leak.

**Before you promote**: look at it (`u2qt tokenizer show V`), then encode, audit and publish the days that readers need
(`u2qt tokenizer shadow V`); a promotion that would hide published days is refused.

**Settings** (environment of the workers): `U2QT_ROOT` lakehouse, an absolute path or URI; `U2QT_CATALOG` and `U2QT_BIN` as for `u2qt_daily`.

### Triage
Nothing is retried: training is long, and a failed one registers nothing.

| symptom | cause | command |
|---|---|---|
| exit 20, days | the days are not built, or `from` lies after `to` | `u2qt build --from D --to D` |
| exit 20, version | that version exists with another fingerprint | `u2qt tokenizer list`; take a new name |
| exit 30 | Java, disk, memory, permissions | `u2qt doctor` |
| exit 30 of `promote_tokenizer` | another run was under way (it is named), or somebody promoted | `u2qt tokenizer list`, then clear the task |
| exit 10 of `promote_tokenizer` | days that the current version published are missing under the new one | `u2qt tokenizer shadow V`, then clear the task |
| exit 1 | a bug; the log has a traceback | |

To go back: `u2qt tokenizer roll-back`.
"""


def day(description: str) -> Param:
    return Param(type="string", format="date", pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$", maxLength=10, description=description)


def command(task_id: str, text: str, **env: str) -> BashOperator:
    return BashOperator(task_id=task_id, bash_command=ROOT + text, env=env, append_env=True, skip_on_exit_code=None, do_xcom_push=False, retries=0)


@task.short_circuit(retries=0)
def promotion_wanted(params: dict[str, object]) -> bool:
    """Ends the run, as a success, unless the version is to be promoted."""
    return params["promote"] is True


with DAG(
    "u2qt_train",
    description="Trains a tokenizer version on built days; promotes it when asked.",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        "from": day("First day to train on, YYYY-MM-DD."),
        "to": day("Last day to train on, YYYY-MM-DD."),
        "tokenizer_version": Param(type="string", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", maxLength=63, description="Name of the new version."),
        "size": Param("base", type="string", enum=["tiny", "demo", "base"], description="tiny and demo are for trying out."),
        "promote": Param(False, type="boolean", description="Promote it at once."),
    },
    doc_md=DOC,
    tags=["u2qt"],
):
    version = "{{ params.tokenizer_version }}"
    train = command("train_tokenizer", TRAIN, U2QT_FROM="{{ params['from'] }}", U2QT_TO="{{ params.to }}", U2QT_VERSION=version, U2QT_SIZE="{{ params.size }}")
    train >> promotion_wanted() >> command("promote_tokenizer", PROMOTE, U2QT_VERSION=version)
