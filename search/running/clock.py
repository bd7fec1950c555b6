"""The time a search may use."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


class OutOfTimeError(Exception):
    """The budget ran out in the middle of a trial; the trial is dropped."""


@dataclass(frozen=True)
class Clock:
    """Time used by the search, those before a resumption included; seconds."""

    budget_s: float | None
    reserve_s: float  # kept for the final proof and export
    began: float
    spent_before_s: float = 0.0
    now: Callable[[], float] = time.monotonic

    @property
    def elapsed_s(self) -> float:
        """Seconds used so far."""
        return self.spent_before_s + self.now() - self.began

    @property
    def left_s(self) -> float:
        """Seconds left for trials; infinite without a budget."""
        if self.budget_s is None:
            return float("inf")
        return self.budget_s - self.reserve_s - self.elapsed_s

    def check(self) -> None:
        """Raises OutOfTimeError when nothing is left for trials."""
        if self.left_s <= 0:
            raise OutOfTimeError
