"""The Pareto front: what no other point beats in everything at once.

Everything inside is a loss, to be minimized; ``Objective`` is the one place where a figure that
should be large becomes a loss. The front holds its points by their losses only: what a point
stands for is the caller's ``payload``.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

P = TypeVar("P")


@dataclass(frozen=True)
class Objective:
    """A figure that counts, and which way.

    Losses are relative to ``origin``: with ``maximize`` and the baseline's accuracy as origin
    the loss is the drop.

        Objective("latency_ms")
        Objective("accuracy", maximize=True, origin=0.97)
    """

    name: str
    maximize: bool = False
    origin: float = 0.0

    def loss(self, value: float) -> float:
        """The loss of ``value``."""
        return self.origin - value if self.maximize else value - self.origin

    def value(self, loss: float) -> float:
        """The value whose loss is ``loss``."""
        return self.origin - loss if self.maximize else loss + self.origin


def losses(objectives: Sequence[Objective], values: Mapping[str, float]) -> tuple[float, ...]:
    """The losses of a point, in the order of ``objectives``, from its figures by name."""
    return tuple(objective.loss(values[objective.name]) for objective in objectives)


@dataclass(frozen=True)
class Point(Generic[P]):
    """Losses, all minimized, and what they are the losses of.

    A loss may be infinite, but not NaN, which is neither better nor worse than anything.

    Raises:
        ValueError: no loss at all, or one that is NaN.
    """

    losses: tuple[float, ...]
    payload: P

    def __post_init__(self) -> None:
        if not self.losses or any(isnan(loss) for loss in self.losses):
            raise ValueError(
                f"a point needs losses, none of them NaN, but got {self.losses}; "
                "leave out what could not be evaluated"
            )


@dataclass(frozen=True)
class NearMiss(Generic[P]):
    """A point that breaks a limit, and by how much.

    ``excess`` holds, for each loss, how far it is above its limit as a share of the limit (as it
    stands where the limit is 0); 0 where the limit is kept.
    """

    point: Point[P]
    excess: tuple[float, ...]

    @property
    def worst(self) -> int:
        """Index of the limit that is broken most."""
        return int(np.argmax(self.excess))


@dataclass(frozen=True)
class ParetoFront(Generic[P]):
    """The points that no other dominates, fewest of the first loss first. Never changes.

    Where two points have the same losses the one that came first stays. Limits on what is not
    a loss have no place here: either such a point is not added, or the figure becomes one more
    loss. That is exact: the best point under limits on its losses is always on the front.
    """

    points: tuple[Point[P], ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point[P]]:
        return iter(self.points)

    def admits(self, losses: tuple[float, ...]) -> bool:
        """Whether a point with ``losses`` would enter: none here is as good in everything.

        With losses that are the best still possible it says whether it can enter at all.
        """
        return not any(_covers(point.losses, losses) for point in self.points)

    def add(self, point: Point[P]) -> ParetoFront[P]:
        """The front with ``point``, or this very front where it does not enter.

        Raises:
            ValueError: ``point`` has another number of losses than the points here.
        """
        if self.points and len(point.losses) != len(self.points[0].losses):
            raise ValueError(
                f"all points of a front have the same losses: expected "
                f"{len(self.points[0].losses)}, but got {len(point.losses)}"
            )
        if not self.admits(point.losses):
            return self
        kept = [other for other in self.points if not _covers(point.losses, other.losses)]
        return ParetoFront(tuple(sorted([*kept, point], key=lambda p: p.losses)))

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Volume dominated by the front within ``reference``, a point of losses.

        What lies beyond ``reference`` in any loss does not count.
        """
        array = np.array([point.losses for point in self.points], dtype=float)
        return hypervolume(array.reshape(len(self.points), len(reference)), reference)

    def best(self, minimize: int, limits: Sequence[float] | None = None) -> Point[P] | None:
        """The point of least loss ``minimize`` whose losses are within ``limits``.

        ``limits`` has one limit a loss, infinity for none. Of equals, the one with the smaller
        other losses in their order. None when no point is within the limits.
        """
        return min(
            (point for point in self.points if limits is None or _covers(point.losses, limits)),
            key=lambda point: (point.losses[minimize], point.losses),
            default=None,
        )

    def near_misses(self, minimize: int, limits: Sequence[float]) -> tuple[NearMiss[P], ...]:
        """Points outside ``limits`` that would be better than ``best``, nearest first.

        Where there is no best, all points. Nearest is smallest in its worst relative excess,
        then in loss ``minimize``.
        """
        best = self.best(minimize, limits)
        least = inf if best is None else best.losses[minimize]
        misses = [
            NearMiss(point, tuple(map(_excess, point.losses, limits)))
            for point in self.points
            if not _covers(point.losses, limits)
            and (best is None or point.losses[minimize] < least)
        ]
        return tuple(sorted(misses, key=lambda m: (max(m.excess), m.point.losses[minimize])))


def hypervolume(losses: ArrayLike, reference: Sequence[float]) -> float:
    """Volume dominated by ``losses``, (n, k), within ``reference``, (k,); k at least 1.

    A sweep in two dimensions; above, slices along the last loss, each a hypervolume of one
    dimension less (HSO: While, Hingston, Barone & Huband, IEEE Trans. Evolutionary Computation
    10(1), 2006): O(n log n) in 2-D, O(n^2 log n) in 3-D.
    """
    bound = np.asarray(reference, dtype=float)
    array = np.asarray(losses, dtype=float)
    return _swept(array[np.all(array < bound, axis=1)], bound)


def _swept(points: NDArray[np.float64], bound: NDArray[np.float64]) -> float:
    if not len(points):
        return 0.0
    points = points[np.argsort(points[:, -1], kind="stable")]
    thickness = np.diff(points[:, -1], append=bound[-1])
    if points.shape[1] == 1:
        return float(thickness.sum())
    if points.shape[1] == 2:
        lengths = bound[0] - np.minimum.accumulate(points[:, 0])
        return float(lengths @ thickness)
    slices = (_swept(points[: count + 1, :-1], bound[:-1]) for count in range(len(points)))
    return float(sum(area * thick for area, thick in zip(slices, thickness, strict=True)))


def ranks(losses: ArrayLike, violations: ArrayLike) -> NDArray[np.int64]:
    """Rank of each point under constrained domination, 0 for the best; (n, k), (n,) -> (n,).

    Feasible points (violation 0 or less) come first, by non-dominated front; then the
    infeasible, by violation. Equal points, and equal violations, share a rank (Deb, Pratap,
    Agarwal & Meyarivan, IEEE Trans. Evolutionary Computation 6(2), 2002).

    Raises:
        ValueError: a loss or a violation is NaN, or the shapes don't agree.
    """
    array = np.asarray(losses, dtype=float)
    violation = np.maximum(np.asarray(violations, dtype=float), 0)
    if array.ndim != 2 or violation.shape != array.shape[:1]:
        raise ValueError(
            "ranks need losses of shape (n, k) and violations of shape (n,), "
            f"but got {array.shape} and {violation.shape}"
        )
    if np.isnan(array).any() or np.isnan(violation).any():
        raise ValueError("ranks need losses and violations without NaN; leave out what failed")
    feasible = violation == 0
    rank = np.empty(len(array), dtype=np.int64)
    rank[feasible] = _front_of_each(array[feasible])
    fronts = rank[feasible].max(initial=-1) + 1
    rank[~feasible] = fronts + np.unique(violation[~feasible], return_inverse=True)[1]
    return rank


def _front_of_each(array: NDArray[np.float64]) -> NDArray[np.int64]:
    return _fronts_of_two(array) if array.shape[1] == 2 else _peeled(array)


def _fronts_of_two(array: NDArray[np.float64]) -> NDArray[np.int64]:
    """With two losses a sweep by the first does: O(n log n) (Jensen, IEEE TEC 7(5), 2003).

    A front is dominated by nothing that comes after it in the sweep, and dominates a new point
    when its least second loss so far is at most the point's.
    """
    front = np.empty(len(array), dtype=np.int64)
    least: list[float] = []  # second loss of each front, ascending
    before: tuple[float, float] | None = None
    at = 0
    for index in np.lexsort((array[:, 1], array[:, 0])).tolist():
        point = (float(array[index, 0]), float(array[index, 1]))
        if point != before:  # equal points share their front
            at = bisect.bisect_right(least, point[1])
            least[at : at + 1] = [point[1]]
        front[index] = at
        before = point
    return front


def _peeled(array: NDArray[np.float64]) -> NDArray[np.int64]:
    """Fronts peeled off one by one, from one matrix of who dominates whom."""
    no_worse = np.all(array[:, np.newaxis] <= array[np.newaxis], axis=2)
    dominates = no_worse & ~no_worse.T
    dominators = dominates.sum(axis=0)
    front = np.full(len(array), -1, dtype=np.int64)
    current = 0
    while (front < 0).any():
        peeled = (front < 0) & (dominators == 0)
        front[peeled] = current
        dominators -= dominates[peeled].sum(axis=0)
        current += 1
    return front


def _covers(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Whether ``losses`` are at most ``others``, each."""
    return all(a <= b for a, b in zip(losses, others, strict=True))


def _excess(loss: float, limit: float) -> float:
    return max(0.0, loss - limit) / (abs(limit) or 1.0)
