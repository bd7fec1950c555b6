"""Latency from the profile's table of kernels: microseconds, for ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from evaluators.evaluator import EvaluationContext
from evaluators.graph import GraphOp, walk
from evaluators.measurement import Measurement
from evaluators.tier import tier
from hardware_profiles import HardwareProfile


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
    """``latency_ms`` of one inference of ``model`` at batch 1 on one core.

    Raises:
        GraphError: the file is not one that the runtime can run.
        ProfileError: the profile lacks a kernel for one of the operators.
    """
    ops = walk(model, arm=profile.cpu.isa.startswith("arm"))
    total = math.fsum(operator_ms(profile, ops))
    error = profile.error_pct / 100
    return Measurement(
        name="latency_ms",
        value=total,
        unit="ms",
        source="estimated",
        how=(
            f"analytic estimate for {profile.title} ({profile.name}), 1 thread, batch 1, "
            f"operators as executed by onnxruntime {ort.__version__}; "
            f"mean error {profile.error_pct:g} %: {profile.error_how}"
        ),
        low=total / (1 + error),
        high=total * (1 + error),
        detail={
            "tier": "analytic",
            "runtime": "onnxruntime",
            "version": ort.__version__,
            "threads": 1,
            "profile": profile.name,
            "error_pct": profile.error_pct,
            "operators": rows(profile, ops, total),
        },
    )


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
