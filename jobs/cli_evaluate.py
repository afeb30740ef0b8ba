"""The command that measures what tokens keep."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli_options import console, say, with_spark
from schemas import keys

app = typer.Typer()


@app.command()
@with_spark
def evaluate(
    context: Any,
    labels: Annotated[str, typer.Option("--labels", help="Table of the lakehouse, .csv file, or Parquet file or folder.")],
    tokenizer_version: Annotated[list[str], typer.Option("--tokenizer-version", help="Registered version; repeatable; the first is compared with the others.")],
    at: Annotated[str | None, typer.Option("--at", help="Column with the moment of prediction: splits by time.")] = None,
    as_of: Annotated[str | None, typer.Option("--as-of", help="One moment for all labels (ISO 8601 with offset): folds of persons.")] = None,
    horizon: Annotated[
        str | None, typer.Option("--horizon", help="With --at: time after which an outcome is known, such as 30d; left out before each split.")
    ] = None,
    user: Annotated[str, typer.Option("--user", help="Column with the user id.")] = "user_id",
    label: Annotated[str, typer.Option("--label", help="Column with the label: 0, 1, true or false.")] = "label",
    window: Annotated[int, typer.Option("--window", help="Days of behaviour that a label may see.")] = 90,
    lag: Annotated[str, typer.Option("--lag", help="Least age of the tokens' day, such as 1d.")] = "1d",
    folds: Annotated[int, typer.Option("--folds", help="Folds of persons, or splits by time; at least 5.")] = 5,
    model: Annotated[list[str] | None, typer.Option("--model", help="linear or boosting; repeatable [default: both].")] = None,
    max_labels: Annotated[int, typer.Option("--max-labels", help="Labels that are sampled, by hash, and held in this process.")] = 20_000,
    seed: Annotated[int, typer.Option("--seed", help="Of folds, shuffled labels and interval draws.")] = 0,
    allow_trained_after: Annotated[bool, typer.Option("--allow-trained-after", help="Accept a tokenizer trained on the labels' days.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="New file for the figures, JSON.")] = None,
) -> None:
    """How much of what predicts a label the tokens keep, with intervals and leak checks."""
    from jobs import evaluate_tokens, show_evaluation
    from jobs.evaluation_models import MODELS

    question = evaluate_tokens.Question(
        labels=labels,
        versions=tuple(map(keys.version, tokenizer_version)),
        at=at,
        as_of=keys.moment(as_of) if as_of is not None else None,
        horizon=keys.duration(horizon) if horizon is not None else None,
        user=user,
        label=label,
        window_days=window,
        lag=keys.duration(lag),
        folds=folds,
        models=tuple(model or MODELS),
        max_labels=max_labels,
        seed=seed,
        allow_trained_after=allow_trained_after,
    )
    with console.status("labels") as status:
        evaluation = evaluate_tokens.run(context, question, status.update)
    console.print(show_evaluation.render(evaluation))
    if out is not None:
        show_evaluation.write_json(evaluation, out)
        say(f"figures in {out}")
