"""What each of the winner's choices buys, with bars that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.concluding.attribution import Saving


@dataclass(frozen=True)
class SavingRow:
    """A choice; its time and its cost as shares of the largest in the table, 0 where negative."""

    saving: Saving
    time_share: float
    cost_share: float


def saving_rows(savings: Sequence[Saving]) -> tuple[SavingRow, ...]:
    """In the order given."""
    most_ms = max((s.saves_ms or 0.0 for s in savings), default=0.0)
    most = max((s.costs or 0.0 for s in savings), default=0.0)
    return tuple(SavingRow(s, _share(s.saves_ms, most_ms), _share(s.costs, most)) for s in savings)


def _share(value: float | None, most: float) -> float:
    return max(value, 0.0) / most if value is not None and most > 0 else 0.0
