"""Intervals from rounds, and what lies beyond one measurement: by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.latency.drift import (
    GAP,
    LEAST_UNLIKE,
    LOOK_S,
    NOISY_GAP,
    QUIET_GAP,
    RATIO_GAP,
    BestLog,
    Seen,
    ratio_reach,
)
from evaluators.latency.interval import (
    Interval,
    geometric_interval,
    interleaved,
    least_disturbed,
    level,
    quotient,
)

T3 = 3.182446  # Student's t(0.975, 3 degrees)
NORMAL = 1.959964


def test_interval_is_students_when_computed_by_hand():
    found = geometric_interval([math.exp(x) for x in (1.0, 2.0, 3.0)])
    reach = 4.302653 * 1.0 / math.sqrt(3)  # t(0.975, 2 degrees), standard deviation 1
    assert found.value == pytest.approx(math.exp(2))
    assert math.log(found.low) == pytest.approx(2 - reach, abs=1e-5)
    assert math.log(found.high) == pytest.approx(2 + reach, abs=1e-5)


def test_interval_covers_the_truth_in_19_of_20_cases():
    rng = np.random.default_rng(0)
    samples = np.exp(0.3 + 0.05 * rng.standard_normal((3000, 6)))
    found = [geometric_interval(sample) for sample in samples]
    covered = np.mean([each.low <= math.exp(0.3) <= each.high for each in found])
    assert 0.935 < covered < 0.965  # three standard errors are 0.012


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20), st.floats(0.01, 100))
def test_interval_follows_the_unit(rounds, factor):
    direct = geometric_interval([each * factor for each in rounds])
    scaled = geometric_interval(rounds).scaled(factor)
    assert dataclasses.astuple(direct) == pytest.approx(dataclasses.astuple(scaled), rel=1e-6)
    assert direct.low <= direct.value <= direct.high


@pytest.mark.parametrize("rounds", [[], [1.0], [1.0, 0.0]])
@pytest.mark.parametrize("find", [geometric_interval, level, lambda r: interleaved(r, r)])
def test_interval_raises_when_there_is_none(rounds, find):
    with pytest.raises(ValueError, match="two or more positive rounds"):
        find(rounds)


def test_overlap_is_symmetric():
    a, b, c = Interval(1, 0.9, 1.1), Interval(1.15, 1.05, 1.25), Interval(2, 1.9, 2.1)
    assert a.overlaps(b)
    assert b.overlaps(a)
    assert not a.overlaps(c)
    assert not c.overlaps(a)


def test_widening_adds_errors_in_squares():
    found = Interval(2.0, 2.0 / 1.03, 2.0 * 1.03).widened(0.04 / NORMAL)
    reach = math.hypot(math.log(1.03), 0.04)
    expected = (2.0, 2.0 * math.exp(-reach), 2.0 * math.exp(reach))
    assert dataclasses.astuple(found) == pytest.approx(expected)


def test_reach_differs_by_side():
    found = Interval(2.0, 2.0 * math.exp(-0.03), 2.0 * math.exp(0.03)).reaching(0.04, 0.0)
    expected = (2.0, 2.0 * math.exp(-0.05), 2.0 * math.exp(0.03))
    assert dataclasses.astuple(found) == pytest.approx(expected)


def test_quotient_adds_errors_in_squares():
    found = quotient(Interval(2, 2 / 1.03, 2 * 1.03), Interval(4, 4 / 1.04, 4 * 1.04))
    reach = np.exp(np.hypot(np.log(1.03), np.log(1.04)))
    assert dataclasses.astuple(found) == pytest.approx((0.5, 0.5 / reach, 0.5 * reach))


def test_least_disturbed_rounds_are_those_of_both_files_together():
    # Logarithms over the fastest: 0 4 1 0 9 1 2 3 and 3 0 1 1 0 0 2 4; sums 3 4 2 1 9 1 4 7.
    a = np.exp([0, 4, 1, 0, 9, 1, 2, 3])
    b = 7 * np.exp([3, 0, 1, 1, 0, 0, 2, 4])
    assert least_disturbed(a, b).tolist() == [0, 2, 3, 5]
    assert least_disturbed(b, a).tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize(("rounds", "kept"), [(3, 3), (4, 4), (7, 4), (8, 4), (9, 5), (40, 20)])
def test_least_disturbed_rounds_are_the_faster_half_and_four_or_more(rounds, kept):
    times = 1.0 + np.arange(rounds)[::-1]
    assert least_disturbed(times).tolist() == list(range(rounds - kept, rounds))


def test_level_is_of_the_fast_mode_and_its_spread_counts_in_full():
    fast = [math.exp(x) for x in (0.01, -0.01, 0.01, -0.01)]
    found = level([1.3, *fast[:2], 1.3, 1.3, *fast[2:], 1.3])
    deviation = math.sqrt(4 * 0.01**2 / 3)
    reach = math.hypot(T3 * deviation / 2, NORMAL * deviation)
    expected = (1.0, math.exp(-reach), math.exp(reach))
    assert dataclasses.astuple(found) == pytest.approx(expected, rel=1e-6)


def test_interleaved_ratio_leaves_out_a_common_drift_but_counts_the_numerator_s_own():
    drift = [math.exp(x) for x in (0.0, 0.03, 0.06, 0.09)]
    found = interleaved([2 * each for each in drift], [5 * each for each in drift])
    reach = NORMAL * math.sqrt((2 * 0.045**2 + 2 * 0.015**2) / 3)  # the ratios don't vary
    expected = (0.4, 0.4 * math.exp(-reach), 0.4 * math.exp(reach))
    assert dataclasses.astuple(found) == pytest.approx(expected, rel=1e-6)


def test_interleaved_ratio_has_students_interval_of_its_rounds():
    others = [math.exp(x) for x in (0.02, -0.02, 0.02, -0.02)]
    found = interleaved([3.0] * 4, others)
    reach = T3 * math.sqrt(4 * 0.02**2 / 3) / 2
    expected = (3.0, 3 * math.exp(-reach), 3 * math.exp(reach))
    assert dataclasses.astuple(found) == pytest.approx(expected, rel=1e-6)


def test_interleaved_ratio_raises_when_rounds_are_missing():
    with pytest.raises(ValueError, match="both figures of every round, but got 3 and 2"):
        interleaved([1.0, 1.0, 1.0], [1.0, 1.0])


def test_every_later_look_that_finds_nothing_faster_halves_what_may_be_unseen():
    times_s = iter([0.0, 1.0, LOOK_S, 2 * LOOK_S, 3 * LOOK_S])
    log = BestLog(clock=lambda: next(times_s))
    found = [log.add("a", ms) for ms in (1.0, 1.01, 1.01, 1.01, 0.9)]
    assert [each.looks for each in found] == [1, 1, 2, 3, 4]
    assert [each.unseen for each in found] == [1, 1, 0.5, 0.25, 0.125]
    assert found[3].slowness == pytest.approx(math.log(1.01))
    assert (found[4].best_ms, found[4].slowness) == (0.9, 0.0)


def test_everything_may_be_unseen_while_a_file_is_slower_than_it_has_been():
    assert Seen(now_ms=1.04, best_ms=1.0, looks=3).unseen == 0.25
    assert Seen(now_ms=1.2, best_ms=1.0, looks=3).unseen == 1.0


def test_log_tells_files_apart():
    log = BestLog(clock=lambda: 0.0)
    log.add("a", 1.0)
    assert log.add("b", 5.0).best_ms == 5.0


@pytest.mark.parametrize(
    ("ratio", "seen", "noisy", "expected"),
    [
        (1 / 100, Seen(1, 1, 1), False, RATIO_GAP),
        (100, Seen(1, 1, 1), False, RATIO_GAP),
        (100, Seen(1, 1, 3), False, RATIO_GAP / 4),
        (100, Seen(1, 1, 9), True, NOISY_GAP),
        (100, Seen(1, 1, 9), False, QUIET_GAP),
        (100, Seen(1.3, 1, 9), False, GAP),
        (8**0.5, Seen(1, 1, 1), False, RATIO_GAP / 2),
        (1.0, Seen(1, 1, 1), False, LEAST_UNLIKE * RATIO_GAP),
    ],
)
def test_ratio_may_be_off_by_what_unlike_files_can_differ_in(ratio, seen, noisy, expected):
    assert ratio_reach(ratio, seen, noisy) == pytest.approx(expected)
