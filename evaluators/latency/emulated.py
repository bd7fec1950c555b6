"""Latency from what the real aarch64 runtime executes for the file on an emulated core."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from evaluators.evaluator import EvaluationContext
from evaluators.graph import executed, label, layer_name, read_model
from evaluators.latency import analytic as latency_analytic
from evaluators.latency.tier import tier, warn_once
from evaluators.measurement import Measurement
from hardware_profiles import HardwareProfile, ProfileError, emulator
from hardware_profiles.counts import latency_ms, work_ms

# Seconds to count one multiply-accumulate; float at 224 pixels took 19 ns of one core of a server.
COUNT_S_PER_MAC = 20e-9


class EmulatedLatency:
    """``latency_ms`` estimated from counts; does not depend on the weights' values."""

    name = "latency-emulated"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """When nothing truer serves, the emulator is there and the profile has coefficients."""
        return tier(context) == "emulated"

    def evaluate(self, model: Path, context: EvaluationContext) -> tuple[Measurement, ...]:
        """One measurement, ``latency_ms``; the analytic one if the emulator fails on the file.

        Raises:
            GraphError: the file is not one that the runtime can run.
        """
        try:
            return (estimate(model, context.profile),)
        except emulator.EmulatorError as error:
            warn_once(f"latency is the analytic estimate, since {error}")
            found = latency_analytic.estimate(model, context.profile)
            detail = {**(found.detail or {}), "instead_of_emulated": str(error)}
            return (dataclasses.replace(found, detail=detail),)


EVALUATOR = EmulatedLatency()


def estimate(model: Path, profile: HardwareProfile) -> Measurement:
    """``latency_ms`` of one inference of ``model`` at batch 1.

    Raises:
        GraphError: the file is not one that the runtime can run.
        EmulatorError: no emulator is installed, or the file crashed it or made it hang.
        ProfileError: the profile has no coefficients for counts.
    """
    if profile.counts is None:
        raise ProfileError(
            f"the emulated tier needs a profile with a [counts] section, but {profile.name!r} "
            "has none; use the analytic tier"
        )
    labelled = label(read_model(model))
    machine = emulator.shared(profile.counts.qemu_cpu)
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / "named.onnx"
        onnx.save(labelled, str(named))
        counted = machine.count(model, named)
    threads = profile.runtime.threads
    found = latency_ms(profile, counted.total, threads)
    versions = emulator.find().versions()
    error_how = found.how + (f"; {found.caveat}" if found.caveat else "")
    return Measurement(
        name="latency_ms",
        value=found.latency_ms,
        unit="ms",
        source="estimated",
        how=(
            f"onnxruntime {versions['onnxruntime']} for aarch64 counted on an emulated "
            f"{emulator.CORES[profile.counts.qemu_cpu].qemu}, for {profile.title} "
            f"({profile.name}), {threads} thread{'s' if threads > 1 else ''}, batch 1; "
            f"mean error {found.error_pct:g} %: {error_how}"
        ),
        low=found.low_ms,
        high=found.high_ms,
        detail={
            "tier": "emulated",
            "runtime": "onnxruntime",
            "version": versions["onnxruntime"],
            "qemu": versions["qemu"],
            "threads": threads,
            "profile": profile.name,
            "calibration": found.calibration_id,
            "error_pct": found.error_pct,
            "error_how": error_how,
            "caveat": found.caveat,
            "counts": dict(counted.total),
            "work": _shares(work_ms(profile, counted.total, threads)),
            "operators_how": (
                "counted for each operator in a second, profiled run; the profiler's own work "
                "is taken out"
            ),
            "operators": _operators(profile, labelled, counted.kernels, found.latency_ms),
        },
        repeatable=True,
    )


def _shares(times: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(times.values())
    return {name: time / total for name, time in times.items()}


def _operators(
    profile: HardwareProfile,
    labelled: onnx.ModelProto,
    kernels: Sequence[emulator.KernelCounts],
    total_ms: float,
) -> list[dict[str, Any]]:
    ops = executed(labelled, [kernel.event for kernel in kernels])
    threads = profile.runtime.threads
    alone = [latency_ms(profile, kernel.counts, threads).latency_ms for kernel in kernels]
    return [
        {
            "name": op.name if op else layer_name(kernel.event),
            "op": op.op if op else "view",
            "bits": op.bits if op else 32,
            "ms": ms / math.fsum(alone) * total_ms,
            "share": ms / math.fsum(alone),
        }
        for kernel, op, ms in zip(kernels, ops, alone, strict=True)
    ]
