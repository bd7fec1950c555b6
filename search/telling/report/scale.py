"""Axes: where a value lies, and which round values are worth a tick."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end] in pixels; logarithmic where asked, for positive values."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are beyond the ends."""
        return self.start + (self.end - self.start) * self._share(value)

    def ticks(self, most: int) -> tuple[float, ...]:
        """At most ``most`` round values from ``low`` to ``high``, but at least one."""
        candidates = self._log_ticks if self.log else self._linear_ticks
        sets = (candidates(level) for level in range(40))
        inside = (tuple(v for v in found if self.low <= v <= self.high) for found in sets)
        fitting = (found for found in inside if len(found) <= most)
        return next(fitting) or (self.low,)

    def _share(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def _log_ticks(self, level: int) -> list[float]:
        """Coarser with each level: 1-2-3-5-7, 1-2-5, 1-3, 1, then every other decade and so on."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        digits = ((1, 1.5, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
        step = max(1, level - len(digits) + 2)
        decades = range(first - first % step, last + 1, step)
        return [d * 10.0**k for k in decades for d in digits[min(level, len(digits) - 1)]]

    def _linear_ticks(self, level: int) -> list[float]:
        """Steps of 1, 2 or 5 times a power of ten, coarser with each level."""
        finest = math.floor(math.log10(self.high - self.low)) - 2
        power, digit = divmod(level, 3)
        step = (1, 2, 5)[digit] * 10.0 ** (finest + power)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [round((first + i) * step, 12) for i in range(count)]
