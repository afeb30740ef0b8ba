"""Shapes of the report's pictures: pure functions from counts to SVG paths and boxes, without colours.

Lengths are in the units of each picture's viewBox.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

COLUMNS = 64  # of a codebook's curve
CURVE_TOP = 6  # a curve's picture ends at this many times the even share
THINNEST = 2.0  # a few rows among many must still be seen
FLOW_WIDTH, FLOW_HEIGHT = 1200, 300
BAR, TOP, TALL = 16, 78, 132.0  # width of a flow bar, y of its top, height of the whole
ROWS_X, CLEAN_X = 0, 215
USERS_X = (455, 660, 865, 1070)

DAYS_WIDTH, DAYS_HEIGHT, DAYS_GAP, MARK = 900, 110, 6.0, 6.0  # of the last days' bars; a mark is a day without published users


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One station of the flow."""

    name: str
    count: int
    state: str  # done, refused or missing


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """Rows in, their three outcomes, and then users from station to station."""

    rows_in: int
    clean: Step
    quarantined: int
    duplicates: int
    users: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ribbon:
    path: str
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowShapes:
    boxes: tuple[Box, ...]
    ribbons: tuple[Ribbon, ...]


def flow_shapes(flow: Flow) -> FlowShapes:
    """Rows are drawn to the scale of the rows in, users to the scale of the most users at any station."""
    rows, users = _rows_part(flow), _users_part(flow)
    bridge = _ribbon(CLEAN_X + BAR, TOP, rows.boxes[1].height, USERS_X[0], TOP, users.boxes[0].height)
    kind = "bridge" if flow.users[0].count and flow.clean.count else "missing"
    ribbons = (*rows.ribbons, Ribbon(path=bridge, kind=kind), *users.ribbons)
    return FlowShapes(boxes=rows.boxes + users.boxes, ribbons=ribbons)


def _rows_part(flow: Flow) -> FlowShapes:
    """The bar of the rows in with its three ribbons: straight on to the clean rows, down to the other two."""
    clean = _thickness(flow.clean.count, flow.rows_in)
    clean_kind = "rows" if flow.clean.state == "done" else flow.clean.state
    boxes = [
        Box(x=ROWS_X, y=TOP, width=BAR, height=TALL, kind="rows" if flow.rows_in else "missing"),
        Box(x=CLEAN_X, y=TOP, width=BAR, height=clean or TALL, kind=clean_kind),
    ]
    ribbons = []
    if flow.rows_in:
        ribbons.append(Ribbon(path=_ribbon(ROWS_X + BAR, TOP, clean, CLEAN_X, TOP, clean), kind="rows"))
    leaves_at, arrives_at = TOP + TALL, float(FLOW_HEIGHT)
    for count, kind in ((flow.duplicates, "duplicates"), (flow.quarantined, "quarantined")):
        thick = _thickness(count, flow.rows_in)
        leaves_at, arrives_at = leaves_at - thick, arrives_at - max(thick, 30)
        if count:
            ribbons.append(Ribbon(path=_ribbon(ROWS_X + BAR, leaves_at, thick, CLEAN_X, arrives_at, thick), kind=kind))
            boxes.append(Box(x=CLEAN_X, y=arrives_at, width=BAR / 2, height=thick, kind=kind))
    return FlowShapes(boxes=tuple(boxes), ribbons=tuple(ribbons))


def _users_part(flow: Flow) -> FlowShapes:
    most = max((step.count for step in flow.users), default=0)
    boxes = [_station(x, step, most) for x, step in zip(USERS_X, flow.users, strict=True)]
    ribbons = []
    for here, there in pairwise(boxes):
        both = min(here.height, there.height)
        kind = "missing" if "missing" in (here.kind, there.kind) else there.kind
        ribbons.append(Ribbon(path=_ribbon(here.x + BAR, TOP, both, there.x, TOP, both), kind=kind))
    return FlowShapes(boxes=tuple(boxes), ribbons=tuple(ribbons))


def _station(x: float, step: Step, most: int) -> Box:
    kind = step.state if step.count else "missing"
    return Box(x=x, y=TOP, width=BAR, height=_thickness(step.count, most) or TALL, kind=kind)


def _thickness(count: int, whole: int) -> float:
    return max(THINNEST, TALL * count / whole) if count and whole else 0.0


def _ribbon(x: float, y: float, thick: float, to_x: float, to_y: float, to_thick: float) -> str:
    """A band from one bar's side to another's, its edges S-shaped."""
    middle = (x + to_x) / 2
    low, to_low = y + thick, to_y + to_thick
    upper = f"M{x:.1f} {y:.1f}C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
    lower = f"V{to_low:.1f}C{middle:.1f} {to_low:.1f} {middle:.1f} {low:.1f} {x:.1f} {low:.1f}Z"
    return upper + lower


def columns(values: Sequence[float], *, width: float, height: float, top: float, gap: float = 0.0) -> str:
    """Side-by-side columns as one path, `top` as high as the picture; a value above zero is at least 1 high."""
    if not values or not top:
        return ""
    step = width / len(values)
    parts = []
    for i, value in enumerate(values):
        if value > 0:
            tall = min(height, max(1.0, height * value / top))
            left, right = i * step + gap / 2, (i + 1) * step - gap / 2
            parts.append(f"M{left:.2f} {height:.2f}V{height - tall:.2f}H{right:.2f}V{height:.2f}Z")
    return "".join(parts)


def day_bars(days: Sequence[tuple[int, str]]) -> tuple[Box, ...]:
    """A box per day from (users published, state), to the scale of the most users; a day without users is a mark on the ground."""
    most = max((users for users, _ in days), default=0)
    step = DAYS_WIDTH / max(len(days), 1)
    tall = [max(THINNEST, DAYS_HEIGHT * users / most) if users else MARK for users, _ in days]
    return tuple(
        Box(x=i * step + DAYS_GAP / 2, y=DAYS_HEIGHT - tall[i], width=step - DAYS_GAP, height=tall[i], kind=state) for i, (_, state) in enumerate(days)
    )


def ranked_curve(multiplicities: Sequence[tuple[int, int]], codebook_size: int) -> tuple[float, ...]:
    """Share of the slices per code, most frequent first, averaged within at most `COLUMNS` columns of equal ranks.

    `multiplicities` are (slices, how many codes have that many); codes not named have none.
    """
    counts = [slices for slices, codes in sorted(multiplicities, reverse=True) for _ in range(codes)][:codebook_size]
    counts += [0] * (codebook_size - len(counts))
    total, bins = sum(counts), min(COLUMNS, codebook_size)
    if not total:
        return (0.0,) * bins
    edges = [i * codebook_size // bins for i in range(bins + 1)]
    return tuple(sum(counts[a:b]) / (b - a) / total for a, b in pairwise(edges))


def perplexity(multiplicities: Sequence[tuple[int, int]]) -> float:
    """exp of the entropy of the codes: how many equally frequent codes would be as varied. 0 without slices."""
    total = sum(slices * codes for slices, codes in multiplicities)
    if not total:
        return 0.0
    terms = (codes * slices / total * math.log(slices / total) for slices, codes in sorted(multiplicities) if slices)
    return math.exp(-math.fsum(terms))
