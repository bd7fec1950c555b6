"""What each class gained or lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluators import Measurement
from search.result import SearchResult
from search.telling.summary import baseline_of, winner_of


@dataclass(frozen=True)
class ClassRow:
    """A class, its images, and the share of them that is right before and after."""

    name: str
    images: int | None
    before: float | None
    after: float
    change: float | None


@dataclass(frozen=True)
class ClassTable:
    """Worst change first. ``split`` is whose images; ``widest`` the largest change, absolute."""

    rows: tuple[ClassRow, ...]
    split: str
    widest: float


def class_table(result: SearchResult) -> ClassTable | None:
    """Of the test split where its figures have classes, else of validation; else None."""
    baseline, winner = baseline_of(result), winner_of(result)
    if winner is None:
        return None
    for split, own, other in (
        ("test", winner.test, baseline.test),
        ("validation", winner.validation, baseline.validation),
    ):
        after, before = _per_class(own), _per_class(other)
        if after:
            rows = [
                _row(_name(result.data.classes, index), figures, before.get(index, {}))
                for index, figures in after.items()
            ]
            rows.sort(key=lambda r: (r.change is None, r.change or 0.0, r.name))
            widest = max((abs(r.change) for r in rows if r.change is not None), default=0.0)
            return ClassTable(tuple(rows), split, widest)
    return None


def _row(name: str, after: Mapping[str, float], before: Mapping[str, float]) -> ClassRow:
    share, was, change = after["accuracy"], before.get("accuracy"), after.get("change")
    if change is not None:
        was = share - change
    elif was is not None:
        change = share - was
    images = after.get("images")
    return ClassRow(name, None if images is None else int(images), was, share, change)


def _per_class(measurement: Measurement | None) -> Mapping[str, Mapping[str, float]]:
    detail = measurement.detail if measurement and measurement.detail else {}
    found: Mapping[str, Mapping[str, float]] = detail.get("per_class", {})
    return found


def _name(classes: Sequence[str], index: str) -> str:
    return classes[int(index)] if index.isdigit() and int(index) < len(classes) else index
