"""Commands of a tokenizer's life beside training: register, shadow, roll-back, crosswalk. docs/tokenizer-life.md tells it in order."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli_options import From, To, console, days_of, print_run, say, with_spark
from jobs.cli_tokens import AllowGap, Now, alone_unless_now, tokenizer_app

app = tokenizer_app  # one group of commands, in two files
Named = Annotated[str, typer.Argument(help="Registered version.")]


@app.command("register")
@with_spark
def tokenizer_register(
    context: Any,
    version: Annotated[str, typer.Argument(help="Name of the new version.")],
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint that was trained elsewhere.")],
    first: Annotated[str, typer.Option("--trained-from", help="First day it was trained on.")],
    last: Annotated[str, typer.Option("--trained-through", help="Last day it was trained on; labels up to it would leak.")],
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of checkpoints [default: in the lakehouse].")] = None,
) -> None:
    """Copies a checkpoint and registers it; its files' sums are kept."""
    from jobs import register_tokenizer

    made = register_tokenizer.run(context, checkpoint, version, days_of(None, first, last), checkpoints=checkpoints)
    say(f"tokenizer {made.version}: fingerprint {made.fingerprint[:16]}, checkpoint {made.checkpoint}")


@app.command("shadow")
@with_spark
def tokenizer_shadow(context: Any, version: Named, first: From = None, last: To = None) -> None:
    """Encodes, audits and publishes days under a version that is not promoted; without days, those that it lacks for that."""
    from jobs import audit_tokens, encode_users, publish_tokens, shadow_days
    from jobs.promote_tokenizer import gap

    days = days_of(None, first, last) if first or last else None
    try:
        planned = shadow_days.planned(context, version, days)
        for chunk in planned:
            for stage in (encode_users, audit_tokens, publish_tokens):
                stage.run(context, chunk, version)
    finally:
        print_run(context)
    say(f"tokenizer {version}: {sum(map(len, planned))} days published in its shadow; {len(gap(context, version))} are missing for its promotion")


@app.command("roll-back")
@partial(with_spark, alone=alone_unless_now)
def tokenizer_roll_back(
    context: Any,
    reason: Annotated[str, typer.Option(help="Why; kept in the promotions table.")] = "",
    allow_gap: AllowGap = None,
    now: Now = False,
) -> None:
    """Promotes the version that was current before."""
    from jobs import promote_tokenizer

    say(str(promote_tokenizer.roll_back(context, reason, allow_gap)))


@app.command("crosswalk")
@with_spark
def tokenizer_crosswalk(
    context: Any,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Version to come from.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Version to go to.")],
    first: From = None,
    last: To = None,
) -> None:
    """Writes table code_crosswalk: old code to new code, counted on rows that both published."""
    from jobs import crosswalk_codes
    from jobs.show_tokenizer import render_crosswalk

    days = days_of(None, first, last) if first or last else None
    console.print(render_crosswalk(crosswalk_codes.run(context, old, new, days)))
