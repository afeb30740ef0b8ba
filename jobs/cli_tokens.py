"""Commands around tokenizers and tokens: training, promotion, SQL, joins with labels."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli_options import MOST_ROWS, Alone, Version, console, days_of, print_run, say, with_spark, write_pieces
from jobs.errors import BadInput
from schemas import keys

app = typer.Typer()
tokenizer_app = typer.Typer(no_args_is_help=True, help="Registered tokenizers.")
AllowGap = Annotated[str | None, typer.Option("--allow-gap", help="Reason to promote although published days are missing under the version.")]

Now = Annotated[bool, typer.Option("--now", help="Don't wait for commands under way: days that they publish may be missing in the current view.")]


def alone_unless_now(options: Mapping[str, Any]) -> Alone:
    """A run that publishes under the version before has to end first, or its day is missing."""
    return "no" if options["now"] else "where possible"


@app.command()
@with_spark
def train(
    context: Any,
    first: Annotated[str, typer.Option("--from", help="First day to train on.")],
    last: Annotated[str, typer.Option("--to", help="Last day to train on; labels up to it would leak.")],
    tokenizer_version: Annotated[str, typer.Option("--tokenizer-version", help="Name of the new version.")],
    quantizer: Annotated[str, typer.Option(help="residual or rq_kmeans.")] = "residual",
    stage1: Annotated[str, typer.Option(help="text or qformer: from what a slice is embedded.")] = "text",
    text_model: Annotated[str | None, typer.Option(help="A sentence-transformers model, folder or name, that reads the texts (extra `text`).")] = None,
    layout: Annotated[str, typer.Option(help="depth: own levels below shared ones; width: own codes beside shared ones.")] = "depth",
    settings: Annotated[list[str] | None, typer.Option("--set", help="One setting of the configuration, such as quantizer.beam=4; may be repeated.")] = None,
    size: Annotated[str, typer.Option(help="tiny, demo or base.")] = "base",
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same fingerprint on one machine.")] = 0,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of checkpoints [default: in the lakehouse].")] = None,
    processes: Annotated[int, typer.Option(help="Processes that train together; another number gives another fingerprint.")] = 1,
    backend: Annotated[str, typer.Option(help="gloo or nccl: by what several processes talk.")] = "gloo",
    job: Annotated[Path | None, typer.Option("--job", help="File to write for torchrun; given again, it registers torchrun's result.")] = None,
) -> None:
    """Learns a tokenizer from feature rows and registers it."""
    from jobs import train_tokenizer
    from jobs.training_processes import Processes
    from jobs.training_progress import on_terminal
    from u2qt_model import presets
    from u2qt_model.settings import with_settings

    sizes = {"tiny": presets.tiny, "demo": presets.demo, "base": presets.base}
    if size not in sizes:
        raise BadInput(f"--size {size}: expected one of {', '.join(sizes)}")
    chosen = [] if text_model is None else ["text.kind=sentence-transformers", f"text_model.model={text_model}"]
    config = with_settings(sizes[size](seed=seed, quantizer=quantizer, layout=layout, stage1=stage1), [*chosen, *(settings or [])])
    days, group = days_of(None, first, last), Processes(count=processes, backend=backend)
    if job is not None:
        if processes == 1:
            raise BadInput("--job with --processes 1: expected 2 or more processes; one trains without a job")
        planned = train_tokenizer.plan(context, days, tokenizer_version, config, checkpoints=checkpoints, processes=group)
        if not Path(planned.result).exists():
            try:
                job.write_text(planned.to_json(), encoding="utf-8")
            except OSError as error:
                raise BadInput(f"--job {job}: can't be written ({error.strerror}), expected a file in a folder that this user may write") from None
            say(f"{job}: run `torchrun --nproc-per-node {processes} -m jobs.train_rank {job}`, then this command again")
            return
    with on_terminal(console) if group.count == 1 else nullcontext(lambda _: None) as progress:
        made = train_tokenizer.run(context, days, tokenizer_version, config, checkpoints=checkpoints, progress=progress, processes=group)
    say(f"tokenizer {made.version}: fingerprint {made.fingerprint[:16]}, checkpoint {made.checkpoint}")
    print_run(context)


@tokenizer_app.command("show")
@with_spark
def tokenizer_show(context: Any, version: Annotated[str, typer.Argument(help="Registered version.")]) -> None:
    """Layout, fingerprint and quality of a registered tokenizer; its checkpoint is checked on the way."""
    from jobs.registered_tokenizers import find_registered, load_registered
    from jobs.show_tokenizer import render

    registered = find_registered(context, version)
    load_registered(registered, context.catalog)
    console.print(render(registered))


@tokenizer_app.command("list")
@with_spark
def tokenizer_list(context: Any) -> None:
    """Every registered tokenizer; the promoted one is marked."""
    from jobs.registered_tokenizers import all_registered, promoted_version
    from jobs.show_tokenizer import render_list

    console.print(render_list(all_registered(context), promoted_version(context)))


@tokenizer_app.command("promote")
@partial(with_spark, alone=alone_unless_now)
def tokenizer_promote(
    context: Any,
    version: Annotated[str, typer.Argument(help="Registered version.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the promotions table.")] = "",
    allow_gap: AllowGap = None,
    now: Now = False,
) -> None:
    """Makes a version the one that user_tokens_current shows."""
    from jobs import promote_tokenizer

    say(str(promote_tokenizer.run(context, version, reason, allow_gap)))


@tokenizer_app.command("compare")
@with_spark
def tokenizer_compare(
    context: Any,
    a: Annotated[str, typer.Argument(metavar="A", help="Registered version.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Registered version.")],
    first: Annotated[str, typer.Option("--from", help="First day to compare on; held out if after both trainings.")],
    last: Annotated[str, typer.Option("--to", help="Last day to compare on.")],
    rows: Annotated[int, typer.Option("--rows", min=1, max=MOST_ROWS, help="About so many rows of user_features.")] = 20_000,
) -> None:
    """Two tokenizers on the same rows: agreement, use of codes, margins, error."""
    from jobs import compare_tokenizers
    from jobs.show_comparison import render

    console.print(render(compare_tokenizers.run(context, days_of(None, first, last), a, b, rows)))


@tokenizer_app.command("export-vocabulary")
@with_spark
def tokenizer_export_vocabulary(
    context: Any,
    tokenizer: Annotated[str, typer.Argument(metavar="VERSION_OR_CHECKPOINT", help="Registered version, or a checkpoint's folder.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for the vocabulary.")],
    base: Annotated[Path | None, typer.Option("--base", help="Folder of the Hugging Face tokenizer to extend, with its model's safetensors.")] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="Width of the language model, where its safetensors aren't there.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the map from codewords to the model's width.")] = 0,
) -> None:
    """Writes our tokens as a vocabulary for language models, and rows to start their embeddings from."""
    from jobs.registered_tokenizers import load_named
    from u2qt_model.export_vocabulary import export_vocabulary

    made = export_vocabulary(load_named(context, tokenizer), out, base=base, width=width, seed=seed)
    rows = "" if made.width is None else f", rows of width {made.width}"
    say(f"vocabulary {made.folder}: {made.tokens} tokens from id {made.first_id}{rows}")


@app.command()
@with_spark
def sql(
    context: Any,
    statement: Annotated[str, typer.Argument(help="One SELECT, WITH, SHOW, DESCRIBE or EXPLAIN statement.")],
    format: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
    limit: Annotated[int, typer.Option("--limit", min=0, max=MOST_ROWS, help="Rows that the table format shows.")] = 100,
) -> None:
    """Asks the lakehouse a question: its tables, and the views over them."""
    from jobs import create_views, query_sql

    create_views.run(context)
    write_pieces(query_sql.render(query_sql.run(context, statement), format, limit))  # type: ignore[arg-type]


@app.command()
@with_spark
def ddl(context: Any) -> None:
    """Prints CREATE TABLE and CREATE VIEW for `spark-sql -f`, for a metastore that somebody else administers."""
    from jobs import create_views

    sys.stdout.write(create_views.ddl(context.catalog, context.lake.root))


@app.command()
@with_spark
def join(
    context: Any,
    labels: Annotated[str, typer.Option("--labels", help="Table of the lakehouse, .csv file, or Parquet file or folder.")],
    at: Annotated[str, typer.Option("--at", help="Column with the moment of the label.")],
    out: Annotated[str, typer.Option("--out", help="New folder for the joined rows (Parquet).")],
    key: Annotated[list[str] | None, typer.Option("--keys", help="Label columns that name a row; repeatable; holds user_id [default: user_id].")] = None,
    lag: Annotated[str, typer.Option("--lag", help="Least age of the tokens' day, such as 1d.")] = "1d",
    sequence_days: Annotated[int | None, typer.Option("--sequence-days", help="The sequence of that many days instead of the latest day.")] = None,
    allow_trained_after: Annotated[bool, typer.Option("--allow-trained-after", help="Accept a tokenizer trained on the labels' days.")] = False,
    tokenizer_version: Version = None,
) -> None:
    """Every label row once, with the tokens that were known at its time."""
    from jobs import join_labels

    joined = join_labels.run(
        context,
        labels,
        at=at,
        out=out,
        keys=tuple(key or ["user_id"]),
        lag=keys.duration(lag),
        sequence_days=sequence_days,
        tokenizer_version=tokenizer_version,
        allow_trained_after=allow_trained_after,
    )
    say(str(joined))
