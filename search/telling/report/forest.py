"""Finalists, each with the drop seen and the largest drop that is left open, on one scale."""

from __future__ import annotations

from dataclasses import dataclass

from search.result import Finalist, SearchResult
from search.telling.report.scale import Scale
from search.telling.report.tables import TrialRow, trial_row


@dataclass(frozen=True)
class ForestRow:
    """A finalist; its drop and its bound in percent of the figure's width."""

    finalist: Finalist
    trial: TrialRow
    drop_at: float
    bound_at: float


@dataclass(frozen=True)
class Forest:
    """Finalists in the order of their tests; zero and the limit in percent of the width."""

    rows: tuple[ForestRow, ...]
    zero_at: float
    limit_at: float
    groups: int | None  # of test images, where they are known


def forest(result: SearchResult) -> Forest:
    """All finalists on one scale, from no drop (or the largest gain) to the limit or beyond."""
    bounds = [f.bound for f in result.finalists]
    low = min([0.0, *(b.drop for b in bounds)])
    high = max([result.limits.max_drop, 0.001, *(min(b.bound, 1.0) for b in bounds)])
    at = Scale(low, high, 6, 94)
    return Forest(
        rows=tuple(
            ForestRow(
                f, trial_row(result, f.trial), at(f.bound.drop), at(min(f.bound.bound, high))
            )
            for f in result.finalists
        ),
        zero_at=at(0),
        limit_at=at(result.limits.max_drop),
        groups=bounds[0].groups if bounds else None,
    )
