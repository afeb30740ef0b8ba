"""The demo: the whole job on simulated sources, in one session, ending with SQL and a report to look at.

Writes OUT/{raw,labels,truth}, OUT/lakehouse, OUT/report.html. Replaces only a folder that an earlier demo made.
"""

import shutil
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from rich.console import Console

from jobs import (
    audit_tokens,
    build_user_features,
    create_views,
    encode_users,
    init_lakehouse,
    promote_tokenizer,
    publish_tokens,
    query_sql,
    simulate_sources,
    train_tokenizer,
    validate_sources,
    write_report,
)
from jobs.cli_options import print_run, say
from jobs.context import Context
from jobs.delta_tables import Lakehouse
from jobs.errors import BadInput
from jobs.session import build_session
from jobs.training_progress import on_terminal
from schemas.catalog_files import load_catalog
from schemas.keys import Days
from u2qt_model import presets

START, SEED, DIRT, VERSION = date(2024, 1, 1), 1, 0.01, "demo-1"
MARK = "made-by-u2qt-demo"
QUESTIONS = (
    (
        "How many users have tokens on each day, and in how many sources?",
        "SELECT ds, count(*) AS users, count(bill_codes) AS with_bill, count(app_codes) AS with_app, count(search_codes) AS with_search\n"
        "FROM user_tokens_current GROUP BY ds ORDER BY ds",
    ),
    (
        "Which payment tokens were the most frequent on the last day?",
        "SELECT token, count(*) AS users FROM user_tokens_long\n"
        "WHERE ds = (SELECT max(ds) FROM user_tokens_current) AND source = 'bill' GROUP BY token ORDER BY users DESC, token LIMIT 5",
    ),
    (
        "What does one user look like?",
        "SELECT user_id, ds, bill_codes, search_codes FROM user_tokens_current WHERE bill_codes IS NOT NULL AND search_codes IS NOT NULL\n"
        "ORDER BY ds DESC, user_id LIMIT 3",
    ),
)


def run(out: Path, *, users: int, days: int, console: Console) -> None:
    """Raises `BadInput` for a folder that something else made, and for fewer than two days."""
    if days < 2:
        raise BadInput(f"demo: found --days {days}, expected at least 2, one to train on before the last")
    _fresh(out)
    spark = build_session()
    try:
        lake = Lakehouse(spark, str(out / "lakehouse"))
        context = Context(spark=spark, lake=lake, catalog=load_catalog(), input_root=str(out / "raw"), run_id="demo")
        _stages(context, out, users, Days(START, START + timedelta(days=days - 1)), console)
    finally:
        spark.stop()


def _fresh(out: Path) -> None:
    if out.exists():
        if not (out / MARK).exists() and any(out.iterdir()):
            raise BadInput(f"--out {out}: found files that no demo made, expected a new folder; nothing was removed")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARK).write_text("the next `u2qt demo` into this folder replaces it\n", encoding="utf-8")


def _stages(context: Context, out: Path, users: int, days: Days, console: Console) -> None:
    count = len(days)
    before_last = Days(days.first, days.last - timedelta(days=1))

    def simulate() -> str:
        rows = simulate_sources.run(context.spark, out=out, users=users, days=count, seed=SEED, start=days.first, dirt=DIRT)
        return f"{sum(rows.values()):,} raw rows of {users:,} users"

    def train() -> str:
        with on_terminal(console) as progress:
            made = train_tokenizer.run(context, before_last, VERSION, presets.demo(), progress=progress)
        return f"{VERSION}, fingerprint {made.fingerprint[:16]}"

    _step("simulate six sources", simulate)
    _step("create the lakehouse", lambda: f"{init_lakehouse.run(context)['created']} tables")
    _step("validate_sources", lambda: validate_sources.run(context, days))
    _step("build_user_features", lambda: build_user_features.run(context, days))
    _step("train_tokenizer (all days but the last)", train)
    _step("promote", lambda: str(promote_tokenizer.run(context, VERSION, "demo")))
    for stage in (encode_users, audit_tokens, publish_tokens):
        _step(stage.__name__.removeprefix("jobs."), lambda stage=stage: stage.run(context, days, VERSION))  # type: ignore[misc]
    print_run(context)
    _ask(context)
    page = write_report.run(context, days.last, out / "report.html")
    say(f'\nA report to look at: {page}\nAsk more:  .venv/bin/u2qt sql --root {out / "lakehouse"} "SELECT ..."   (docs/sql.md has ten questions)')


def _step(name: str, work: Callable[[], object]) -> None:
    clock = time.perf_counter()
    said = work()
    say(f"{time.perf_counter() - clock:6.1f} s  {name}" + (f": {said}" if said else ""))


def _ask(context: Context) -> None:
    create_views.run(context)
    for question, statement in QUESTIONS:
        say(f"\n-- {question}\n{statement}\n")
        say("".join(query_sql.render(query_sql.run(context, statement), "table")))
