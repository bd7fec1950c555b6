"""Interval of a ratio (or of one figure) from rounds of repeated measurement.

What disturbs a run only makes it longer, and often for seconds: another process, or a clock with
two frequencies. So the figure is that of the faster rounds, and how much these still differ from
one another counts in full, since it does not average out within one measurement.

A speed-up that is shown is a ratio of two latencies and has an interval: ``interleaved`` where
both files ran in the same rounds, ``quotient`` where each has an interval of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

MIN_KEPT = 4  # rounds; with fewer, Student's factor makes any interval wide


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
        return self.reaching(reach, reach)

    def reaching(self, down: float, up: float) -> Interval:
        """With one more independent error of at most ``down`` and ``up`` in the logarithm."""
        low = math.hypot(math.log(self.value / self.low), down)
        high = math.hypot(math.log(self.high / self.value), up)
        return Interval(self.value, self.value * math.exp(-low), self.value * math.exp(high))

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
    logs = np.log(_checked(rounds))
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs))
    reach = float(stats.t.ppf((1 + confidence) / 2, df=len(logs) - 1)) * error
    center = float(logs.mean())
    return Interval(math.exp(center), math.exp(center - reach), math.exp(center + reach))


def least_disturbed(*levels_ms: Sequence[float]) -> NDArray[np.intp]:
    """Indices, in order, of the faster half of the rounds (four or more, where there are).

    A round is as disturbed as its files, together, are slower than each was at its fastest: the
    sum of logarithms. It treats the files alike, so that the choice moves their ratio neither
    way, and where the machine changed between two speeds it finds the rounds of the faster one.

    Args:
        levels_ms: for every file its figure in each round, all of the same rounds.

    Raises:
        ValueError: fewer than two rounds, or a figure that isn't positive.
    """
    logs = np.log([_checked(each) for each in levels_ms])
    disturbance = np.sum(logs - logs.min(axis=1, keepdims=True), axis=0)
    kept = max(MIN_KEPT, -(-logs.shape[1] // 2))
    return np.sort(np.argsort(disturbance, kind="stable")[:kept])


def level(rounds_ms: Sequence[float]) -> Interval:
    """One file's latency in its faster rounds; their own spread, its drift, counts in full.

    Raises:
        ValueError: fewer than two rounds, or a figure that isn't positive.
    """
    kept = [rounds_ms[i] for i in least_disturbed(rounds_ms)]
    return geometric_interval(kept).widened(spread(kept))


def interleaved(numerator_ms: Sequence[float], denominator_ms: Sequence[float]) -> Interval:
    """Ratio of two latencies from rounds in which both files ran, in the faster rounds.

    A common drift of the machine cancels within a round. Student's interval of the rounds'
    ratios is widened by the spread of the numerator's own rounds, its drift.

    Args:
        numerator_ms, denominator_ms: one figure a round, of the same rounds in the same order.

    Raises:
        ValueError: fewer than two rounds, not as many of both, or a figure that isn't positive.
    """
    if len(numerator_ms) != len(denominator_ms):
        raise ValueError(
            "a ratio needs both figures of every round, but got "
            f"{len(numerator_ms)} and {len(denominator_ms)}"
        )
    kept = least_disturbed(numerator_ms, denominator_ms)
    ratios = [numerator_ms[i] / denominator_ms[i] for i in kept]
    return geometric_interval(ratios).widened(spread([numerator_ms[i] for i in kept]))


def _checked(rounds: Sequence[float]) -> NDArray[np.float64]:
    if len(rounds) < 2 or min(rounds) <= 0:
        raise ValueError(f"an interval needs two or more positive rounds, but got {list(rounds)}")
    return np.asarray(rounds, dtype=np.float64)


def spread(figures: Sequence[float]) -> float:
    """Standard deviation of the logarithm of two or more positive figures."""
    return float(np.std(np.log(figures), ddof=1))


def quotient(numerator: Interval, denominator: Interval) -> Interval:
    """Ratio of two independent figures; the errors of their logarithms add in squares.

    The speed-up of ``b`` over ``a``, from the intervals of their latencies, is
    ``quotient(a, b)``. An error that both have in common would cancel, so that it is too wide
    rather than too narrow where both were measured beside the same file.
    """
    a, b = numerator, denominator
    up = math.hypot(math.log(a.high / a.value), math.log(b.value / b.low))
    down = math.hypot(math.log(a.value / a.low), math.log(b.high / b.value))
    value = a.value / b.value
    return Interval(value, value * math.exp(-down), value * math.exp(up))
