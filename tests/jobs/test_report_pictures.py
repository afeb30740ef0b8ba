"""The pictures' geometry."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import report_pictures as pictures
from jobs.report_pictures import TALL, THINNEST, Flow, Step

MULTIPLICITIES = st.dictionaries(st.integers(1, 1000), st.integers(1, 20), min_size=1, max_size=8).map(lambda counts: tuple(counts.items()))


def flow(*, rows_in: int = 100, clean: int = 90, quarantined: int = 9, duplicates: int = 1, users: int = 5) -> Flow:
    names = ("Active users", "Encoded", "Audited", "Published")
    return Flow(
        rows_in=rows_in,
        clean=Step(name="Clean rows", count=clean, state="done"),
        quarantined=quarantined,
        duplicates=duplicates,
        users=tuple(Step(name=name, count=users, state="done") for name in names),
    )


@given(MULTIPLICITIES)
def test_a_curve_holds_every_slice_and_falls(multiplicities: tuple[tuple[int, int], ...]) -> None:
    """Its area is one, and no column is higher than the one before."""
    curve = pictures.ranked_curve(multiplicities, 640)
    assert math.isclose(sum(curve) * 10, 1)
    assert list(curve) == sorted(curve, reverse=True)


@given(MULTIPLICITIES)
def test_perplexity_lies_between_one_and_the_codes_used(multiplicities: tuple[tuple[int, int], ...]) -> None:
    """One code only gives 1; equally frequent codes give their number."""
    used = sum(codes for _, codes in multiplicities)
    assert 1 - 1e-9 <= pictures.perplexity(multiplicities) <= used + 1e-9
    assert pictures.perplexity([(7, used)]) == pytest.approx(used)


def test_a_codebook_without_slices_is_flat() -> None:
    """No slice, no division by zero."""
    assert pictures.ranked_curve([], 4) == (0.0,) * 4
    assert pictures.perplexity([]) == 0.0


def test_columns_cut_what_is_too_high_and_show_what_is_small() -> None:
    """Twice the top is drawn at full height, a hundredth at one unit, nothing not at all."""
    path = pictures.columns((2.0, 0.01, 0.0), width=30, height=10, top=1.0)
    assert path == "M0.00 10.00V0.00H10.00V10.00ZM10.00 10.00V9.00H20.00V10.00Z"
    assert pictures.columns((0.0,), width=30, height=10, top=0.0) == ""


def test_flow_bars_are_proportional_and_never_vanish() -> None:
    """Nine in a hundred rows take nine hundredths; one in a million still has a visible ribbon."""
    kinds = {box.kind: box.height for box in pictures.flow_shapes(flow()).boxes}
    assert kinds["quarantined"] == pytest.approx(0.09 * TALL)
    kinds = {box.kind: box.height for box in pictures.flow_shapes(flow(rows_in=10**6, clean=10**6 - 1, duplicates=1)).boxes}
    assert kinds["duplicates"] == THINNEST


def test_stations_not_reached_are_drawn_as_missing() -> None:
    """A day that stopped after validation has dashed boxes, and nothing flows into them."""
    shapes = pictures.flow_shapes(flow(users=0))
    assert [box.kind for box in shapes.boxes].count("missing") == 4
    assert not any(ribbon.kind in ("done", "bridge") for ribbon in shapes.ribbons)


def test_a_day_without_users_is_a_mark_on_the_ground() -> None:
    """The most users are as high as the picture; a few are still seen; no days, no boxes."""
    most, few, none = pictures.day_bars([(1000, "done"), (1, "refused"), (0, "missing")])
    assert (most.y, most.height, most.kind) == (0, pictures.DAYS_HEIGHT, "done")
    assert (few.height, few.kind) == (pictures.THINNEST, "refused")
    assert (none.y + none.height, none.height) == (pictures.DAYS_HEIGHT, pictures.MARK)
    assert none.x + none.width <= pictures.DAYS_WIDTH
    assert pictures.day_bars([]) == ()
