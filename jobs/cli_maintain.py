"""The command that keeps a lakehouse small: `u2qt maintain`."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import typer

from jobs.cli_options import Alone, console, with_spark

app = typer.Typer()


def _alone(options: Mapping[str, Any]) -> Alone:
    """Without retention no reader is spared, so none may be there."""
    return "always" if options["retain_hours"] == 0 and not options["dry_run"] else "no"


def _days(kind: str, flag: str, default: str) -> Any:
    return typer.Option(flag, min=1, help=f"Days of {kind} to keep, counted back from the newest published day [default: {default}].")


@app.command()
@partial(with_spark, alone=_alone)
def maintain(
    context: Any,
    keep_days: Annotated[int | None, _days("everything but tokens", "--keep-days", "all")] = None,
    keep_source_days: Annotated[int | None, _days("clean and quarantined rows", "--keep-source-days", "as --keep-days")] = None,
    keep_feature_days: Annotated[int | None, _days("feature rows", "--keep-feature-days", "as --keep-days")] = None,
    keep_staged_days: Annotated[int | None, _days("staged rows that were published", "--keep-staged-days", "as --keep-days")] = None,
    keep_token_days: Annotated[int | None, _days("published tokens", "--keep-token-days", "all; at least 90")] = None,
    retain_hours: Annotated[
        int, typer.Option("--retain-hours", min=0, max=168, help="Hours that replaced files stay for readers; 0 needs the lakehouse alone.")
    ] = 168,
    small_files: Annotated[int, typer.Option("--small-files", min=1, help="Small files that a partition may have before they are put together.")] = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Removes old days, puts small files together, removes files that nobody reads; disk use before and after."""
    from jobs import maintain_lakehouse
    from jobs.retention import Keep
    from jobs.show_maintenance import render

    keep = Keep(
        source_days=keep_source_days or keep_days,
        feature_days=keep_feature_days or keep_days,
        staged_days=keep_staged_days or keep_days,
        token_days=keep_token_days,
    )
    console.print(render(maintain_lakehouse.run(context, keep, retain_hours=retain_hours, small_files=small_files, dry_run=dry_run)))
