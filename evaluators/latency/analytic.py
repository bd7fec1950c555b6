"""Latency from the profile's table of kernels: microseconds, for ranking."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from evaluators.evaluator import EvaluationContext
from evaluators.graph import GraphOp, walk
from evaluators.latency.tier import tier
from evaluators.measurement import Measurement
from hardware_profiles import HardwareProfile, ProfileError
from hardware_profiles.counts import COUNT_COLUMNS, latency_ms
from hardware_profiles.fitting.tables import shipped_counts


class AnalyticLatency:
    """``latency_ms`` estimated from shapes; does not depend on the weights' values."""

    name = "latency-analytic"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """When nothing truer serves."""
        return tier(context) == "analytic"

    def evaluate(self, model: Path, context: EvaluationContext) -> tuple[Measurement, ...]:
        """One measurement, ``latency_ms``, of one inference at batch 1."""
        return (estimate(model, context.profile),)


EVALUATOR = AnalyticLatency()


def operator_ms(profile: HardwareProfile, ops: Sequence[GraphOp]) -> tuple[float, ...]:
    """Estimated milliseconds of each operator on one core."""
    return tuple(profile.cost(op.op, op.shape, op.bits) for op in ops)


def estimate(model: Path, profile: HardwareProfile) -> Measurement:
    """``latency_ms`` of one inference of ``model`` at batch 1.

    Raises:
        GraphError: the file is not one that the runtime can run.
        ProfileError: the profile lacks a kernel for one of the operators, or what its threads
            leave is not known.
    """
    ops = walk(model, arm=profile.cpu.isa.startswith("arm"))
    threads = profile.runtime.threads
    total = math.fsum(operator_ms(profile, ops)) * thread_ratio(profile, threads)
    error_pct, error_how = _error(profile, threads)
    shorter, longer = _spread(profile, threads)
    return Measurement(
        name="latency_ms",
        value=total,
        unit="ms",
        source="estimated",
        how=(
            f"analytic estimate for {profile.title} ({profile.name}), {threads} "
            f"thread{'s' if threads > 1 else ''}, batch 1, operators as executed by onnxruntime "
            f"{ort.__version__}; mean error {error_pct:g} %: {error_how}"
        ),
        low=total / shorter,
        high=total * longer,
        detail={
            "tier": "analytic",
            "runtime": "onnxruntime",
            "version": ort.__version__,
            "threads": threads,
            "profile": profile.name,
            "calibration": profile.counts.calibration_id if profile.counts else profile.name,
            "error_pct": error_pct,
            "error_how": error_how,
            "caveat": profile.counts.caveat if profile.counts else "",
            "operators": rows(profile, ops, total),
        },
        repeatable=True,
    )


def thread_ratio(profile: HardwareProfile, threads: int) -> float:
    """What several threads leave of one thread's time, on an average network.

    Shapes don't tell how much of a network's time goes to memory, which threads share; the
    networks whose counts are shipped give the geometric mean.

    Raises:
        ProfileError: what threads leave on this device is not known.
    """
    if threads == 1:
        return 1.0
    if profile.counts is None:
        raise ProfileError(
            f"threads must be 1, as nothing is known of more on {profile.name!r}, but got "
            f"{threads}"
        )
    ratios = [
        latency_ms(profile, each.counts, threads).latency_ms
        / latency_ms(profile, each.counts).latency_ms
        for each in shipped_counts()
        if each.qemu_cpu == profile.counts.qemu_cpu and each.runtime.startswith("onnxruntime")
    ]
    return statistics.geometric_mean(ratios)


def _error(profile: HardwareProfile, threads: int) -> tuple[float, str]:
    """Mean error in per cent, and what it is made of."""
    # Kernels of a calibrated profile were held against the device itself, not against counts.
    calibrated = profile.counts is not None and profile.counts.fit is None
    if profile.counts is None or (calibrated and threads == 1):
        return profile.error_pct, profile.error_how
    below = latency_ms(profile, dict.fromkeys(COUNT_COLUMNS, 1), threads)
    together = round(math.hypot(profile.error_pct, below.error_pct), 1)
    return together, (
        f"{profile.error_pct:g} % {profile.error_how}; that one's {below.error_pct:g} % "
        f"{below.how}" + (f"; {below.caveat}" if below.caveat else "")
    )


def _spread(profile: HardwareProfile, threads: int) -> tuple[float, float]:
    """How many times shorter and longer than the estimate the truth may be.

    The table of kernels misses the estimate from counts by its mean error, and seldom by twice
    that; errors of both add up as logarithms do, in quadrature.
    """
    table = 2 * math.log1p(profile.error_pct / 100)
    if profile.counts is None or (profile.counts.fit is None and threads == 1):
        return math.exp(table), math.exp(table)
    below = latency_ms(profile, dict.fromkeys(COUNT_COLUMNS, 1), threads)
    shorter = math.log(below.latency_ms / below.low_ms)
    longer = math.log(below.high_ms / below.latency_ms)
    return math.exp(math.hypot(table, shorter)), math.exp(math.hypot(table, longer))


def rows(
    profile: HardwareProfile, ops: Sequence[GraphOp], total_ms: float
) -> list[dict[str, Any]]:
    """Name, operator, bits, milliseconds and share of each, scaled to add up to ``total_ms``."""
    times = operator_ms(profile, ops)
    shares = [ms / math.fsum(times) for ms in times]
    return [
        {"name": op.name, "op": op.op, "bits": op.bits, "ms": share * total_ms, "share": share}
        for op, share in zip(ops, shares, strict=True)
    ]
