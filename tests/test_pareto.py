"""The front, its volume and its answers, against hand-computed cases and naive versions."""

from __future__ import annotations

from itertools import product
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.deciding.pareto import Objective, ParetoFront, Point, hypervolume, losses, ranks


def front_of(*points: tuple[float, ...]) -> ParetoFront[int]:
    front: ParetoFront[int] = ParetoFront()
    for payload, point in enumerate(points):
        front = front.add(Point(point, payload))
    return front


def dominates(a: Any, b: Any) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def naive_volume(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Counts unit cells; points and reference are whole numbers."""
    lowest = [min([r, *(p[k] for p in points)]) for k, r in enumerate(reference)]
    sides = [range(int(low), int(high)) for low, high in zip(lowest, reference, strict=True)]

    def filled(cell: tuple[int, ...]) -> bool:
        return any(all(x <= c for x, c in zip(p, cell, strict=True)) for p in points)

    return sum(map(filled, product(*sides)))


def clouds(dimensions: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    """Few whole numbers, so that equal losses and equal points are common."""
    return st.lists(st.tuples(*[st.integers(-2, 5)] * dimensions), max_size=12)


any_cloud = st.integers(1, 4).flatmap(clouds)


# --- objectives ---------------------------------------------------------------------------


def test_losses_take_directions_and_origin_from_the_objectives():
    objectives = (Objective("accuracy", maximize=True, origin=0.97), Objective("latency_ms"))
    found = losses(objectives, {"latency_ms": 2.5, "accuracy": 0.95, "size_bytes": 7.0})
    assert found == (pytest.approx(0.02), 2.5)
    assert objectives[0].value(found[0]) == pytest.approx(0.95)
    assert objectives[1].value(2.5) == 2.5


def test_a_gain_is_a_negative_loss():
    assert Objective("accuracy", maximize=True, origin=0.9).loss(0.95) == pytest.approx(-0.05)


# --- membership ---------------------------------------------------------------------------


def test_add_keeps_only_what_nothing_dominates():
    front = front_of((0.03, 5.0), (0.01, 9.0), (0.02, 6.0), (0.02, 7.0), (0.005, 6.0))
    assert [(p.losses, p.payload) for p in front] == [((0.005, 6.0), 4), ((0.03, 5.0), 0)]


def test_add_leaves_the_old_front_alone_and_returns_it_when_nothing_enters():
    before = front_of((1.0, 1.0))
    assert len(before.add(Point((0.0, 2.0), 7))) == 2
    assert len(before) == 1
    assert before.add(Point((1.0, 2.0), 7)) is before


def test_add_keeps_the_first_of_equal_points():
    front = front_of((1.0, 2.0), (1.0, 2.0))
    assert [p.payload for p in front] == [0]


@pytest.mark.parametrize("bad", [(nan, 1.0), (1.0, nan), ()])
def test_point_raises_when_a_loss_is_nan_or_none_is_there(bad):
    with pytest.raises(ValueError, match="none of them NaN"):
        Point(bad, "x")


def test_add_raises_when_the_number_of_losses_differs():
    with pytest.raises(ValueError, match="expected 2, but got 3"):
        front_of((1.0, 2.0)).add(Point((1.0, 2.0, 3.0), 1))


def test_infinite_losses_are_compared_as_they_are():
    assert [p.payload for p in front_of((inf, 1.0), (2.0, 2.0), (inf, 3.0))] == [1, 0]


@given(any_cloud)
def test_front_is_the_naive_front_whatever_the_order(cloud):
    expected = {p for p in cloud if not any(dominates(q, p) for q in cloud)}
    for order in (cloud, cloud[::-1]):
        front = front_of(*order)
        assert {p.losses for p in front} == expected
        assert len(front) == len(expected)
        assert [p.losses for p in front] == sorted(expected)


@given(any_cloud.filter(bool))
def test_admits_foretells_add(cloud):
    *others, last = cloud
    front = front_of(*others)
    entered = Point(last, -1) in front.add(Point(last, -1)).points
    assert front.admits(last) == entered


# --- hypervolume --------------------------------------------------------------------------


def test_hypervolume_by_hand():
    # A staircase of three unit steps under (4, 4): 1*3 + 1*2 + 1*1.
    assert front_of((1, 3), (2, 2), (3, 1)).hypervolume((4, 4)) == 6
    # Two boxes of 2x2x1 and 1x1x2 that share a 1x1x1 corner.
    assert front_of((0, 0, 1), (1, 1, 0)).hypervolume((2, 2, 2)) == 4 + 2 - 1
    assert front_of((0.25,)).hypervolume((1.0,)) == 0.75
    assert front_of().hypervolume((1.0, 1.0)) == 0


def test_hypervolume_ignores_what_lies_beyond_the_reference():
    assert front_of((1, 3), (0, 9), (9, 0)).hypervolume((4, 4)) == 3
    assert front_of((4, 0)).hypervolume((4, 4)) == 0
    assert front_of((inf, 0), (1, 1)).hypervolume((2, 2)) == 1


@given(any_cloud.filter(bool))
def test_hypervolume_equals_counting_cells(cloud):
    reference = (4,) * len(cloud[0])
    assert hypervolume(cloud, reference) == naive_volume(cloud, reference)
    assert front_of(*cloud).hypervolume(reference) == naive_volume(cloud, reference)


@given(clouds(3).filter(bool))
def test_hypervolume_does_not_depend_on_the_order_of_losses(cloud):
    turned = [(z, x, y) for x, y, z in cloud]
    assert hypervolume(cloud, (3, 4, 5)) == hypervolume(turned, (5, 3, 4))


@given(clouds(2), st.tuples(st.integers(-2, 5), st.integers(-2, 5)))
def test_hypervolume_grows_exactly_when_a_point_enters_within_the_reference(cloud, new):
    front = front_of(*cloud)
    grown = front.add(Point(new, -1)).hypervolume((4, 4)) > front.hypervolume((4, 4))
    assert grown == (front.admits(new) and max(new) < 4)


# --- answers ------------------------------------------------------------------------------

DROP, LATENCY = 0, 1


def test_best_is_the_fastest_within_the_limits():
    front = front_of((0.0, 9.0), (0.02, 5.0), (0.04, 1.0))
    assert front.best(LATENCY, (0.03, inf)).losses == (0.02, 5.0)
    assert front.best(LATENCY, (0.02, 5.0)).losses == (0.02, 5.0)  # limits are inclusive
    assert front.best(LATENCY).losses == (0.04, 1.0)
    assert front.best(DROP).losses == (0.0, 9.0)
    assert front.best(LATENCY, (0.01, 8.0)) is None
    assert front_of().best(LATENCY) is None


@given(clouds(3), st.tuples(*[st.integers(-2, 5)] * 3))
def test_best_on_the_front_is_as_good_as_best_of_all_points(cloud, limits):
    within = [p for p in cloud if all(x <= y for x, y in zip(p, limits, strict=True))]
    best = front_of(*cloud).best(1, limits)
    assert (best is None) == (not within)
    if best is not None:
        assert best.losses[1] == min(p[1] for p in within)
        assert best.losses in within


def test_near_misses_are_faster_than_the_best_and_nearest_first():
    front = front_of((0.02, 5.0), (0.036, 3.0), (0.033, 4.0), (0.09, 1.0), (0.0, 9.0))
    misses = front.near_misses(LATENCY, (0.03, inf))
    assert [m.point.losses for m in misses] == [(0.033, 4.0), (0.036, 3.0), (0.09, 1.0)]
    assert misses[0].excess == (pytest.approx(0.1), 0.0)
    assert misses[0].worst == DROP


def test_near_misses_are_all_points_when_nothing_is_within_the_limits():
    front = front_of((0.0, 9.0), (0.06, 4.0))
    misses = front.near_misses(LATENCY, (0.03, 6.0))
    # 9 ms is half above 6 ms; a drop of 0.06 is twice the limit.
    assert [m.point.losses for m in misses] == [(0.0, 9.0), (0.06, 4.0)]
    assert [m.worst for m in misses] == [LATENCY, DROP]
    assert misses[0].excess == (0.0, pytest.approx(0.5))


def test_near_misses_take_the_excess_as_it_is_when_the_limit_is_zero():
    (miss,) = front_of((0.25, 1.0)).near_misses(LATENCY, (0.0, inf))
    assert miss.excess == (0.25, 0.0)


# --- ranks --------------------------------------------------------------------------------


def test_ranks_by_hand():
    # Fronts: {(1,3), (3,1)}, {(2,4), (3,3)}, {(4,4)}; then the infeasible, less violation first.
    points = [(4, 4), (1, 3), (3, 1), (2, 4), (3, 3), (0, 0), (0, 0), (9, 9)]
    violations = [0, 0, -1, 0, 0, 0.5, 0.2, 0.2]
    assert ranks(points, violations).tolist() == [2, 0, 0, 1, 1, 4, 3, 3]


def test_ranks_of_infeasible_points_start_at_zero_when_none_is_feasible():
    assert ranks([(1, 1), (2, 2)], [0.2, 0.1]).tolist() == [1, 0]
    assert ranks(np.empty((0, 2)), []).tolist() == []


@given(
    st.integers(1, 3).flatmap(
        lambda k: st.lists(
            st.tuples(st.tuples(*[st.integers(0, 4)] * k), st.sampled_from([0, 0, 0, 1, 2])),
            min_size=1,
            max_size=14,
        )
    )
)
def test_ranks_equal_peeling_by_constrained_domination(cases):
    def beats(a: Any, b: Any) -> bool:
        (x, broken_a), (y, broken_b) = a, b
        return broken_a < broken_b or (broken_a == broken_b == 0 and dominates(x, y))

    left, rank, expected = set(range(len(cases))), 0, [0] * len(cases)
    while left:
        front = {i for i in left if not any(beats(cases[j], cases[i]) for j in left)}
        for i in front:
            expected[i] = rank
        left, rank = left - front, rank + 1
    assert ranks(*zip(*cases, strict=True)).tolist() == expected


def test_ranks_are_quick_for_a_thousand_points():
    rng = np.random.default_rng(0)
    found = ranks(rng.random((1000, 3)), np.zeros(1000))
    assert found.min() == 0
    assert set(found) == set(range(found.max() + 1))


@pytest.mark.parametrize(
    ("points", "violations", "message"),
    [
        ([(1.0, nan)], [0.0], "without NaN"),
        ([(1.0, 2.0)], [nan], "without NaN"),
        ([(1.0, 2.0)], [0.0, 0.0], "shape"),
        ([1.0, 2.0], [0.0, 0.0], "shape"),
    ],
)
def test_ranks_raise_when_input_is_nan_or_misshapen(points, violations, message):
    with pytest.raises(ValueError, match=message):
        ranks(points, violations)
