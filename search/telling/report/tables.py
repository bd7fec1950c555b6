"""The tables of the page: what stands in which cell, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from evaluators import Evaluation, Measurement
from search.result import SearchResult
from search.telling import words
from search.telling.figures import figures_of, value
from search.telling.report.panels import excess
from search.telling.summary import (
    Contender,
    baseline_of,
    contender,
    gained,
    input_rows,
    on_validation,
    simple_of,
    winner_of,
)
from search.telling.words import metric_title
from search.trial import Trial


@dataclass(frozen=True)
class Cell:
    """A figure and, in small print, where it comes from or what it means."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One figure of the compared models; ``note`` is what is true of all its cells."""

    title: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class TrialRow:
    """A trial in a table."""

    number: int
    origin: str
    state: str
    accuracy: str
    latency: Cell
    size: str
    time: str
    note: str
    marks: tuple[str, ...]


@dataclass(frozen=True)
class LimitRow:
    """A limit: of what, the largest allowed, what the winner has, and whether that is enough."""

    title: str
    most: str
    has: str
    met: str


_TITLES = {
    "latency_ms": "Latency",
    "size_bytes": "Size",
    "peak_memory_bytes": "Peak memory",
    "peak_memory_above_floor_bytes": "Peak memory above the runtime’s floor",
    "peak_tensor_bytes": "Peak tensors",
    "macs": "Multiply-accumulates",
    "parameters": "Parameters",
}
_WHERE_KNOWN = ("peak_memory_above_floor_bytes", "peak_tensor_bytes", "macs", "parameters")


def compared(result: SearchResult) -> list[tuple[str, str, Contender]]:
    """(title, origin, figures) of those that are there."""
    shown = [
        ("Baseline", baseline_of(result)),
        ("Strongest simple", simple_of(result)),
        ("Winner", winner_of(result)),
    ]
    return [(title, words.origin(c.trial.origin), c) for title, c in shown if c]


def comparison(result: SearchResult) -> list[Row]:
    """One row for each figure; some only where at least one of the models has it."""
    shown = [c for _, _, c in compared(result)]
    metric = metric_title(result.metric)
    baseline = baseline_of(result)
    rows = [
        _row("Latency", [_cell(c.figures.measurements.get("latency_ms")) for c in shown]),
        _row(
            "Times as fast as the baseline",
            [Cell(gained(baseline, c)) for c in shown],
        ),
        _row(f"{metric.capitalize()}, test", [_cell(c.test) for c in shown]),
        _row(f"{metric.capitalize()}, validation", [_cell(c.validation) for c in shown]),
        _row("Size", [_sized(c, baseline) for c in shown]),
    ]
    for title, *sizes in input_rows(result, [c.trial for c in shown]):
        rows.append(Row(title.capitalize(), "height × width, pixels", tuple(map(Cell, sizes))))
    for name in ("peak_memory_bytes", *_WHERE_KNOWN):
        cells = [_cell(c.figures.measurements.get(name)) for c in shown]
        if name not in _WHERE_KNOWN or any(cell.text != words.UNKNOWN for cell in cells):
            rows.append(_row(_TITLES[name], cells))
    return rows


def _row(title: str, cells: Sequence[Cell]) -> Row:
    notes = {cell.note for cell in cells if cell.text != words.UNKNOWN}
    if len(notes) != 1:
        return Row(title, "", tuple(cells))
    return Row(title, notes.pop(), tuple(Cell(cell.text) for cell in cells))


def _cell(measurement: Measurement | None) -> Cell:
    if measurement is None:
        return Cell(words.UNKNOWN)
    return Cell(words.figure(measurement), words.source(measurement))


def _sized(own: Contender, baseline: Contender) -> Cell:
    size = own.figures.measurements.get("size_bytes")
    before = baseline.figures.measurements.get("size_bytes")
    if size is None or before is None or size.value <= 0 or own.trial is baseline.trial:
        return _cell(size)
    return Cell(words.size(size.value), f"{words.ratio(before.value / size.value)} smaller")


def by_latency(trials: Iterable[Trial]) -> list[Trial]:
    """Fastest first; those without a latency last."""

    def key(trial: Trial) -> float:
        latency = value(figures_of(trial), "latency_ms")
        return math.inf if latency is None else latency

    return sorted(trials, key=key)


def trial_row(result: SearchResult, trial: Trial) -> TrialRow:
    """A trial with the figures that the search saw, and why it is not more than it is."""
    own = contender(trial, result.metric)
    accuracy = on_validation(trial, result.metric)
    marks = []
    if result.winner and result.winner.trial.number == trial.number:
        marks.append("winner")
    if any(t.number == trial.number for t in result.front):
        marks.append("front")
    return TrialRow(
        number=trial.number,
        origin=words.origin(trial.origin),
        state=trial.state,
        accuracy=words.percent(accuracy.value) if accuracy else words.UNKNOWN,
        latency=_cell(own.figures.measurements.get("latency_ms")),
        size=_cell(own.figures.measurements.get("size_bytes")).text,
        time=words.duration(trial.seconds),
        note="; ".join(filter(None, [trial.reason or "; ".join(excess(trial)), trainings(trial)])),
        marks=tuple(marks),
    )


def trainings(trial: Trial) -> str:
    """The drops of a finalist's trainings, in their order; empty where there was only one."""
    if not trial.drops:
        return ""
    told = ", ".join(words.points(drop) for drop in trial.drops)
    return f"trained {len(trial.drops)} times, drops on validation {told}: the least stands"


def limits(result: SearchResult) -> list[LimitRow]:
    """Every limit that was stated or that the device sets, and whether the winner meets it."""
    own, asked, metric = winner_of(result), result.limits, metric_title(result.metric)
    confidence = words.percent(asked.confidence)
    title = f"Drop in {metric} on the test split, shown with {confidence} confidence"
    drop = LimitRow(title, words.points(asked.max_drop), words.NOTHING, words.NOTHING)
    if result.winner:
        outcome = result.winner.outcome
        has = words.points(outcome.bound.drop)
        if outcome.own_bound is not None:
            has += f"; its own bound, read alone, {words.points(outcome.own_bound)}"
        drop = replace(drop, has=has, met=outcome.verdict)
    rows = [drop]
    for name, ceiling in asked.ceilings(result.profile).items():
        most = words.latency(ceiling) if name == "latency_ms" else words.size(ceiling)
        found = own.figures.measurements.get(name) if own else None
        has, met = (words.UNKNOWN if own else words.NOTHING), words.NOTHING
        if found:
            has, met = words.figure(found), "met" if found.value <= ceiling else "exceeded"
        rows.append(LimitRow(_TITLES.get(name, name), most, has, met))
    return rows


@dataclass(frozen=True)
class Provenance:
    """A figure with its interval, when it was taken, and how."""

    name: str
    when: str
    cell: Cell
    between: str
    how: str


def provenance(result: SearchResult) -> list[tuple[str, list[Provenance]]]:
    """For each of the compared models all of its figures, before and after the test split."""
    winner = result.winner
    tests = {
        "Baseline": result.baseline_test,
        "Strongest simple": result.simple_test,
        "Winner": winner.test if winner else None,
    }
    tables = []
    for title, _, own in compared(result):
        rows = [_origin(m, "during the search") for m in _all(figures_of(own.trial))]
        rows += [_origin(m, "at the end") for m in _all(tests[title] or Evaluation({}))]
        tables.append((title, sorted(rows, key=lambda r: r.name)))
    return tables


def _all(figures: Evaluation) -> Iterable[Measurement]:
    return figures.measurements.values()


def _origin(found: Measurement, when: str) -> Provenance:
    between = words.NOTHING
    if found.low is not None and found.high is not None:
        between = f"{found.low:.4g} to {found.high:.4g}"
    cell = Cell(words.figure(found), found.source)
    return Provenance(found.name, when, cell, between, found.how)
