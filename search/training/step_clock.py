"""How long a training takes, told from its first steps, and how much of it there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

STEPS = 3  # are timed before anything is said; the one before them has kernels to prepare


@dataclass
class Pace:
    """Called after each step of a training, says how many steps it shall have.

    ``until`` is when it has to end, on the clock ``now``; None: when it is done. ``told`` is
    given the seconds of the whole training and the share of its steps that fits, once.
    """

    until: float | None
    told: Callable[[float, float], None]
    now: Callable[[], float] = time.monotonic
    share: float = 1.0  # of the planned steps that were or will be made
    _first: float = 0.0

    def __call__(self, done: int, planned: int) -> int:
        """Steps in all, from ``done`` to ``planned``; ``done`` is never 0."""
        now = self.now()
        if done == 1:
            self._first = now
        steps = planned
        if done > STEPS:
            step_s = (now - self._first) / (done - 1)
            if self.until is not None:
                steps = min(planned, max(done, done + int((self.until - now) / step_s)))
            if done == STEPS + 1:
                self.told(step_s * planned, steps / planned)
        elif self.until is not None and now >= self.until:
            steps = done
        self.share = steps / planned
        return steps
