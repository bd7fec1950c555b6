import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from evaluators.evaluator import EvaluationContext, Evaluator, discover
from evaluators.graph import walk
from evaluators.latency.analytic import EVALUATOR, estimate
from hardware_profiles import HardwareProfile, ProfileError, load_profile
from tests.models import quantized, small_network


def context(profile: HardwareProfile, scratch: Path) -> EvaluationContext:
    return EvaluationContext(
        profile=profile,
        images=np.zeros((1, 3, 16, 16), np.float32),
        labels=np.zeros(1, np.int64),
        scratch=scratch,
    )


def test_estimate_is_the_sum_of_the_profile_costs(tmp_path: Path) -> None:
    profile = load_profile("raspberry-pi-4b")
    file = small_network(tmp_path / "m.onnx")
    measurement = estimate(file, profile)
    costs = [profile.cost(op.op, op.shape, op.bits) for op in walk(file)]
    assert measurement.value == pytest.approx(math.fsum(costs))
    assert measurement.detail is not None
    rows = measurement.detail["operators"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["ms"] for row in rows] == pytest.approx(costs)


def test_estimate_says_tier_profile_and_error(tmp_path: Path) -> None:
    profile = load_profile("raspberry-pi-4b")
    measurement = estimate(small_network(tmp_path / "m.onnx"), profile)
    assert measurement.source == "estimated"
    assert measurement.detail is not None
    assert measurement.detail["tier"] == "analytic"
    assert measurement.detail["profile"] == profile.name
    assert profile.counts is not None
    assert measurement.detail["error_pct"] == pytest.approx(
        math.hypot(profile.error_pct, profile.counts.error_pct), abs=0.06
    )
    assert profile.counts.caveat in measurement.how
    assert measurement.low is not None
    assert measurement.high is not None
    assert measurement.low < measurement.value < measurement.high


def test_calibrated_profile_has_the_error_against_its_device_alone(tmp_path: Path) -> None:
    profile = load_profile("raspberry-pi-4b")
    assert profile.counts is not None
    counts = dataclasses.replace(profile.counts, fit=None, error_pct=30.0, caveat="")
    calibrated = dataclasses.replace(profile, counts=counts, error_pct=7.5, error_how="measured")
    found = estimate(small_network(tmp_path / "m.onnx"), calibrated)
    assert found.detail is not None
    assert found.detail["error_pct"] == 7.5
    assert found.how.endswith("mean error 7.5 %: measured")


def test_estimate_of_int8_charges_int8_kernels(tmp_path: Path) -> None:
    file = quantized(small_network(tmp_path / "m.onnx"), tmp_path / "q.onnx")
    detail = estimate(file, load_profile("raspberry-pi-5")).detail
    assert detail is not None
    assert {r["bits"] for r in detail["operators"] if r["op"] == "conv"} == {8}


def test_evaluator_is_discovered_and_serves_where_there_are_no_counts(tmp_path: Path) -> None:
    assert EVALUATOR in discover()
    assert isinstance(EVALUATOR, Evaluator)
    assert EVALUATOR.cheap
    assert EVALUATOR.applies(context(load_profile("x86-avx2"), tmp_path))
    assert not EVALUATOR.applies(context(load_profile("host"), tmp_path))


def test_estimate_with_threads_is_faster_but_not_by_their_number(tmp_path: Path) -> None:
    profile = load_profile("raspberry-pi-4b")
    runtime = dataclasses.replace(profile.runtime, threads=4)
    file = small_network(tmp_path / "m.onnx")
    alone = estimate(file, profile)
    four = estimate(file, dataclasses.replace(profile, runtime=runtime))
    assert alone.value / 4 < four.value < alone.value
    assert four.detail is not None
    assert four.detail["threads"] == 4
    with pytest.raises(ProfileError, match="threads must be 1"):
        estimate(file, dataclasses.replace(load_profile("x86-avx2"), runtime=runtime))


def test_interval_adds_the_errors_of_table_and_counts_as_logarithms(tmp_path: Path) -> None:
    """By hand: 10 % in the mean for the table, 20 % at most for counts, 34 % as published."""
    profile = dataclasses.replace(load_profile("raspberry-pi-4b"), error_pct=10.0)
    assert profile.counts is not None
    counts = dataclasses.replace(profile.counts, largest_error_pct=20.0)
    found = estimate(
        small_network(tmp_path / "m.onnx"), dataclasses.replace(profile, counts=counts)
    )
    assert found.low is not None
    assert found.high is not None
    table = 2 * math.log(1.1)
    assert found.value / found.low == pytest.approx(math.exp(math.hypot(table, math.log(1.34))))
    assert found.high / found.value == pytest.approx(math.exp(math.hypot(table, -math.log(0.8))))
    alone = estimate(small_network(tmp_path / "m.onnx"), dataclasses.replace(profile, counts=None))
    assert alone.low is not None
    assert alone.high is not None
    assert alone.value / alone.low == alone.high / alone.value == pytest.approx(1.1**2)
