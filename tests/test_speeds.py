"""Factors of float and int8 operators, from measured latencies."""

from __future__ import annotations

import pytest

from hardware_profiles import HardwareProfile, OpShape, load_profile
from search.deciding.latency_correction import LEAST_PLANS, STEP, Speeds, by_bits, speeds
from spaces.tracing.table import Row, ShapeTable, Width

PROFILE = load_profile("x86-vnni")


def plan(channels: int, layers_of_int8: int) -> ShapeTable:
    """Six convolutions, the last ones in int8."""
    shape, width = OpShape(channels, channels, (16, 16), (16, 16), (3, 3)), Width(channels)
    bits = [32] * (6 - layers_of_int8) + [8] * layers_of_int8
    return ShapeTable(tuple(Row("conv", "a", "a", shape, width, width, b) for b in bits), {})


PLANS = [plan(channels, int8) for channels in (8, 32, 64) for int8 in (0, 2, 5, 6)]


def on(machine: HardwareProfile, factor: float = 1.0) -> list[tuple[tuple[float, float], float]]:
    return [(by_bits(table, PROFILE), factor * table.latency_ms(machine)) for table in PLANS]


def test_a_machine_like_its_profile_changes_nothing() -> None:
    assert speeds(on(PROFILE)) == Speeds()
    assert Speeds().of(PROFILE) == PROFILE


def test_factors_of_another_machine_are_found() -> None:
    """Float takes half of what the profile has it, int8 twice; the prior pulls a little."""
    found = speeds(on(Speeds(0.5, 2.0).of(PROFILE)))
    assert found.float32 == pytest.approx(0.5, rel=0.15)
    assert found.int8 == pytest.approx(2.0, rel=0.15)


def test_what_is_slower_alike_has_equal_factors() -> None:
    found = speeds(on(PROFILE, factor=STEP**9))
    assert found == Speeds(pytest.approx(STEP**9), pytest.approx(STEP**9))


def test_where_nothing_ran_in_int8_it_is_taken_to_be_as_slow_as_float() -> None:
    parts = [by_bits(plan(channels, 0), PROFILE) for channels in (8, 16, 32, 64)]
    assert all(int8_ms == 0 for _, int8_ms in parts)
    found = speeds([(each, 3 * sum(each)) for each in parts])
    assert found.int8 == pytest.approx(found.float32, rel=0.11)
    assert found.float32 == pytest.approx(3.0, rel=0.03)


def test_a_few_plans_say_nothing() -> None:
    assert speeds(on(PROFILE, 7.0)[: LEAST_PLANS - 1]) == Speeds()


def test_scaled_profile_has_scaled_latencies() -> None:
    for table, int8 in ((plan(32, 0), False), (plan(32, 6), True)):
        scaled = table.latency_ms(Speeds(3.0, 5.0).of(PROFILE))
        assert scaled == pytest.approx((5.0 if int8 else 3.0) * table.latency_ms(PROFILE))
