"""The front as a figure: where every plan lies between fast and right, and what bounds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluators import Measurement
from search.result import SearchResult
from search.telling import words
from search.telling.figures import figures_of, value
from search.telling.report.scale import Scale
from search.telling.summary import on_validation
from search.trial import Trial

Area = tuple[float, float, float, float]  # left, top, right, bottom
_CHARACTER = 6.1  # width of a character of a label, in pixels at 11 px
_LINE = 14
_LABELS = {"fp32": "FP32", "int8": "int8"}


@dataclass(frozen=True)
class Point:
    """A plan in the figure.

    ``kind`` decides its mark: ``winner``, ``baseline``, ``front``, ``feasible`` or
    ``infeasible``; ``below`` says that it lies under the figure and is drawn at its edge.
    ``low_x`` to ``high_x`` is its latency's interval.
    """

    trial: int
    kind: str
    on_front: bool
    x: float
    y: float
    below: bool
    low_x: float | None = None
    high_x: float | None = None


@dataclass(frozen=True)
class Label:
    """A point's name in the figure; ``anchor`` is SVG's ``text-anchor``."""

    text: str
    x: float
    y: float
    anchor: str
    strong: bool

    @property
    def area(self) -> Area:
        """What it covers, about."""
        width = len(self.text) * _CHARACTER * (1.1 if self.strong else 1)
        left = self.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * width
        return left, self.y - _LINE + 4, left + width, self.y + 3


@dataclass(frozen=True)
class Tick:
    """A value on an axis, in pixels along it."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything to be drawn, in pixels; the plot lies between ``left`` … ``bottom``."""

    width: int
    height: int
    left: float
    top: float
    right: float
    bottom: float
    points: tuple[Point, ...]
    labels: tuple[Label, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    staircase: str
    limit_y: float | None
    limit_x: float | None


@dataclass(frozen=True)
class _Plan:
    trial: Trial
    latency: Measurement
    accuracy: float


def front_chart(result: SearchResult, width: int, height: int, narrow: bool) -> Chart | None:
    """The figure in this many pixels; None when no plan has both figures.

    The vertical axis goes little below the limit: what lies lower is drawn at the edge, so that
    one ruined plan does not flatten all others.
    """
    plans = tuple(_plans(result))
    if not plans:
        return None
    floor = _accuracy_limit(result)
    right, top, bottom = width - 14.0, 14.0, height - 44.0
    y = _y_scale(plans, floor, bottom - 8, top + 12)
    y_ticks = tuple(Tick(y(v), f"{v * 100:.5g}") for v in y.ticks(6))
    left = 26 + _CHARACTER * 1.15 * max(len(tick.text) for tick in y_ticks)
    x = _x_scale(plans, result.limits.max_latency_ms, left + 10, right - 10)
    points = tuple(_point(result, plan, x, y, bottom - 7) for plan in plans)
    drawn = sorted(points, key=lambda p: _ORDER.index(p.kind))
    limit_x = result.limits.max_latency_ms
    return Chart(
        width=width,
        height=height,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        points=tuple(drawn),
        labels=_labels(result, points, (left, top, right, bottom), narrow),
        x_ticks=tuple(
            Tick(x(v), words.latency(v).split(words.NBSP)[0]) for v in x.ticks(5 if narrow else 9)
        ),
        y_ticks=y_ticks,
        staircase=_staircase([p for p in points if p.on_front], (left, right, bottom)),
        limit_y=y(floor) if floor is not None else None,
        limit_x=x(limit_x) if limit_x is not None else None,
    )


_ORDER = ("infeasible", "feasible", "front", "baseline", "winner")


def plotted(result: SearchResult) -> tuple[Trial, ...]:
    """The trials that the figure shows, fastest first."""
    plans = sorted(_plans(result), key=lambda p: (p.latency.value, p.trial.number))
    return tuple(p.trial for p in plans)


def sources(result: SearchResult) -> str:
    """``measured``, ``estimated`` or both: where the latencies in the figure are from."""
    return " and ".join(sorted({p.latency.source for p in _plans(result)}, reverse=True))


def _plans(result: SearchResult) -> Iterable[_Plan]:
    for trial in result.trials:
        accuracy = on_validation(trial, result.metric)
        latency = figures_of(trial).measurements.get("latency_ms")
        if trial.state == "complete" and accuracy and latency and latency.value > 0:
            yield _Plan(trial, latency, accuracy.value)


def _accuracy_limit(result: SearchResult) -> float | None:
    """The lowest validation accuracy that the limit allows, by point estimate."""
    baseline = value(figures_of(result.baseline), result.metric)
    return None if baseline is None else baseline - result.limits.max_drop


def _x_scale(plans: Sequence[_Plan], limit: float | None, start: float, end: float) -> Scale:
    shown = [p.latency.value for p in plans] + ([limit] if limit else [])
    low, high = min(shown), max(shown)
    margin = max((high / low) ** 0.04, 1.15)
    return Scale(low / margin, high * margin, start, end, log=True)


def _y_scale(plans: Sequence[_Plan], limit: float | None, start: float, end: float) -> Scale:
    shown = [p.accuracy for p in plans] + ([limit] if limit is not None else [])
    high = max(shown)
    low = min(shown)
    if limit is not None:
        low = max(low, limit - max(0.6 * (high - limit), 0.005))
    margin = max((high - low) * 0.06, 0.001)
    return Scale(low - margin, high + margin, start, end)


def _point(result: SearchResult, plan: _Plan, x: Scale, y: Scale, edge: float) -> Point:
    trial, latency = plan.trial, plan.latency
    on_front = any(t.number == trial.number for t in result.front)
    if result.winner and result.winner.trial.number == trial.number:
        kind = "winner"
    elif trial.is_baseline:
        kind = "baseline"
    elif not trial.feasible:
        kind = "infeasible"
    else:
        kind = "front" if on_front else "feasible"
    low, high = latency.low, latency.high
    interval = (x(max(low, x.low)), x(min(high, x.high))) if low and high else (None, None)
    below = plan.accuracy < y.low
    at = edge if below else y(plan.accuracy)
    return Point(trial.number, kind, on_front, x(latency.value), at, below, *interval)


def _staircase(points: Sequence[Point], box: tuple[float, float, float]) -> str:
    """SVG path of the front: right of and below it everything is dominated."""
    left, right, bottom = box
    steps = sorted((p.x, p.y) for p in points if not p.below)
    if not steps:
        return ""
    path = f"M{steps[0][0]:.1f},{bottom:.1f}V{steps[0][1]:.1f}"
    for x, y in steps[1:]:
        path += f"H{x:.1f}V{y:.1f}"
    return path + f"H{max(right, left):.1f}"


def _labels(
    result: SearchResult,
    points: Sequence[Point],
    box: Area,
    narrow: bool,
) -> tuple[Label, ...]:
    """Names of the winner and the baselines, where they fit without covering one another.

    Best where they cover no point at all, else where they cover none that has a name.
    """
    placed: list[Label] = []
    every = [_around(p) for p in points]
    named = [_around(p) for p in points if p.kind in _NAMED]
    for name, point in _names(result, points, narrow):
        texts = [label.area for label in placed]
        fitting = (
            label
            for taken in (every, named)
            for label in _places(name, point)
            if _inside(label.area, box)
            and not any(_overlap(label.area, other) for other in (*taken, *texts))
        )
        placed += [label for label in (next(fitting, None),) if label]
    return tuple(placed)


_NAMED = ("winner", "baseline")


def _names(
    result: SearchResult, points: Sequence[Point], narrow: bool
) -> Iterable[tuple[str, Point]]:
    """Most important first: what does not fit is left to the panel beside the figure."""
    by_number = {p.trial: p for p in points}
    simple = result.strongest_simple
    for point in points:
        if point.kind == "winner":
            yield "winner", point
    first = [result.baseline.number, *([simple.number] if simple else [])]
    rest = [] if narrow else [t.number for t in result.trials if t.is_baseline]
    for number in dict.fromkeys([*first, *rest]):
        if number in by_number and by_number[number].kind == "baseline":
            trial = next(t for t in result.trials if t.number == number)
            yield _short(trial.origin), by_number[number]


def _short(origin: str) -> str:
    name = origin.partition(":")[2]
    return _LABELS.get(name) or words.origin(origin).removeprefix("uniform ")


def _places(text: str, point: Point) -> Iterable[Label]:
    strong = point.kind == "winner"
    gap = 13 if strong else 10
    for dx, dy, anchor in (
        (gap, 4, "start"),
        (0, -gap, "middle"),
        (-gap, 4, "end"),
        (-gap / 2, -gap, "end"),
        (gap / 2, -gap, "start"),
        (gap / 2, gap + 8, "start"),
        (0, gap + 8, "middle"),
        (-gap / 2, gap + 8, "end"),
    ):
        yield Label(text, point.x + dx, point.y + dy, anchor, strong)


def _around(point: Point) -> Area:
    return point.x - 5, point.y - 5, point.x + 5, point.y + 5


def _inside(area: Area, box: Area) -> bool:
    return area[0] >= box[0] and area[1] >= box[1] and area[2] <= box[2] and area[3] <= box[3]


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
