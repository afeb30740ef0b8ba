"""Days that were whole before rows were taken away on purpose are whole afterwards: the ledger's states are told.

Without this every stage would find that its rows are no longer those it wrote, and work days again that nothing is wrong with.
A day that was not as its last run had left it stays so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date

from jobs import build_user_features, encode_users, publish_tokens, validate_sources
from jobs.context import Context
from jobs.day_states import DayState, recorded_states, runs_of_days
from jobs.ledger import record_stage
from jobs.registered_tokenizers import all_registered
from schemas.keys import Days

Whole = dict[date, DayState]
Look = Callable[[Days, Whole], Whole]


@contextmanager
def recorded_again(context: Context, days: Days | None) -> Iterator[None]:
    """`days` are those that the block may take rows from, or whose rows stand on those; None: none."""
    if days is None:
        yield
        return
    looks = _looks(context)
    before = {(stage, version): _whole(context, stage, version, days, look) for (stage, version), look in looks.items()}
    yield
    for (stage, version), whole in before.items():
        for part in runs_of_days(whole):
            now = looks[stage, version](part, whole)
            changed = {ds: state for ds, state in now.items() if whole[ds].difference(state)}
            for span in runs_of_days(changed):
                with record_stage(context, stage, span, version=version) as record:
                    record.status = "adjusted"
                    record.notes["adjusted"] = "rows of forgotten users are gone; the day stands on the others as before"
                    record.states += [changed[ds] for ds in span]


def _looks(context: Context) -> dict[tuple[str, str | None], Look]:
    """Per stage (and version) a function that says what its days stand on now."""
    looks: dict[tuple[str, str | None], Look] = {
        (validate_sources.STAGE, None): lambda days, known: validate_sources.states(context, days, _raw_sums(known)),
        (build_user_features.STAGE, None): lambda days, known: {
            ds: state for ds in days for state in build_user_features.described(context, Days(ds, ds), known[ds].cutoff).values()
        },
    }
    for registered in all_registered(context):
        looks[encode_users.STAGE, registered.version] = lambda days, _, r=registered: encode_users.states(context, days, r)  # type: ignore[misc]
        looks[publish_tokens.STAGE, registered.version] = lambda days, _, r=registered: publish_tokens.states(context, days, r)  # type: ignore[misc]
    return looks


def _whole(context: Context, stage: str, version: str | None, days: Days, look: Look) -> Whole:
    """The days of `days` that stand as their last run left them."""
    known = recorded_states(context, stage, days, version)
    found: Whole = {}
    for part in runs_of_days(known):
        now = look(part, known)
        found |= {ds: known[ds] for ds in part if not known[ds].difference(now[ds])}
    return found


def _raw_sums(known: Whole) -> dict[str, dict[date, str]]:
    """Raw input is not read again: nothing is taken from it."""
    sources = {source for state in known.values() for source in state.inputs}
    return {source: {ds: state.inputs[source] for ds, state in known.items() if source in state.inputs} for source in sources}
