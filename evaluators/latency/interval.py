"""Interval of a ratio (or of one figure) from rounds of repeated measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A positive figure and the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Relative: half the distance of the bounds over the value."""
        return (self.high - self.low) / (2 * self.value)

    def scaled(self, factor: float) -> Interval:
        """The same figure in another unit."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def widened(self, deviation: float, confidence: float = 0.95) -> Interval:
        """With one more independent error: normal, this standard deviation of the logarithm."""
        reach = float(stats.norm.ppf((1 + confidence) / 2)) * deviation
        up = math.hypot(math.log(self.high / self.value), reach)
        down = math.hypot(math.log(self.value / self.low), reach)
        return Interval(self.value, self.value * math.exp(-down), self.value * math.exp(up))

    def overlaps(self, other: Interval) -> bool:
        """Whether the two measurements agree within their intervals."""
        return self.low <= other.high and other.low <= self.high


def geometric_interval(rounds: Sequence[float], confidence: float = 0.95) -> Interval:
    """Geometric mean of one positive figure per round, with Student's interval of its logarithm.

    Single runs are autocorrelated and skewed, medians of whole rounds hardly; rounds that also
    open the file anew vary as separate measurements do, which repeated runs of one process do
    not (batch means: Law and Kelton, Simulation Modeling and Analysis; levels of repetition:
    Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, 2013).

    Raises:
        ValueError: fewer than two rounds, or a figure that isn't positive.
    """
    if len(rounds) < 2 or min(rounds) <= 0:
        raise ValueError(f"an interval needs two or more positive rounds, but got {list(rounds)}")
    logs = np.log(np.asarray(rounds, dtype=np.float64))
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    reach = float(stats.t.ppf((1 + confidence) / 2, df=len(logs) - 1)) * error
    center = float(logs.mean())
    return Interval(math.exp(center), math.exp(center - reach), math.exp(center + reach))


def quotient(numerator: Interval, denominator: Interval) -> Interval:
    """Ratio of two independent figures; the errors of their logarithms add in squares."""
    a, b = numerator, denominator
    up = math.hypot(math.log(a.high / a.value), math.log(b.value / b.low))
    down = math.hypot(math.log(a.value / a.low), math.log(b.high / b.value))
    value = a.value / b.value
    return Interval(value, value * math.exp(-down), value * math.exp(up))
