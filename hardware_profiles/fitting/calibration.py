"""A profile of one's own device: measured probes, refined coefficients, new held-out errors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.counts import features
from hardware_profiles.devices.board import Board
from hardware_profiles.devices.processor import arm_cores, has_vnni, is_x86
from hardware_profiles.events import FEATURES, MISSES, WORK
from hardware_profiles.fitting.probes import Probe
from hardware_profiles.fitting.refine import Array, Factors, Refined, refine
from hardware_profiles.profile import (
    CountModel,
    HardwareProfile,
    ProfileError,
    Source,
    shipped_profiles,
)

SECONDS = 5.0  # a probe
Counter = Callable[[Path], Mapping[str, float]]

# Parts of the estimate from counts that are refined together.
COUNT_PARTS: Mapping[str, tuple[str, ...]] = {
    "float multiplying": ("fmla32", "fmla16"),
    "integer multiplying": ("dot", "mmla", "imul_w", "adalp"),
    "other vector work": WORK["other vector work"],
    "loads and stores": WORK["loads and stores"],
    "control": WORK["control"],
    "waiting for caches and memory": MISSES,
}
# Parts of the estimate from shapes: operators and width.
SHAPE_PARTS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "float convolution": (("conv", "linear"), 32),
    "int8 convolution": (("conv", "linear"), 8),
    "float depthwise": (("depthwise",), 32),
    "int8 depthwise": (("depthwise",), 8),
}
_REST = "everything else"
_OVERHEAD = "overhead of an operator"


@dataclass(frozen=True)
class Measured:
    """What each probe took on the device, in ms with one thread."""

    about: Mapping[str, Any]
    times_ms: Mapping[str, float]
    unsteady: Mapping[str, tuple[str, ...]]  # by probe; the reasons


@dataclass(frozen=True)
class Calibrated:
    """The new profile and how well each of its tables does on architectures left out."""

    profile: HardwareProfile
    from_shapes: Refined
    from_counts: Refined | None


def base_profile(about: Mapping[str, Any]) -> HardwareProfile:
    """The shipped profile that is nearest to what an agent says of its machine.

    Raises:
        ProfileError: none has its core; the remedy is to name one.
    """
    shipped = shipped_profiles().values()
    if is_x86(about):
        return shipped_profiles()["x86-vnni" if has_vnni(about) else "x86-avx2"]
    found = [profile for profile in shipped if profile.cpu.core in arm_cores(about)]
    if not found:
        raise ProfileError(
            f"the device must have the core of a shipped profile, but it says {about['cpu']} "
            f"({about['machine']}); name the nearest one: --base NAME"
        )
    # The one whose title the board repeats; of a mixed board, that of its fastest core.
    return max(found, key=lambda p: (p.title.lower() in str(about["cpu"]).lower(), p.cpu.core))


def measure(
    board: Board, probes: Sequence[Probe], say: Callable[[str], None], seconds: float = SECONDS
) -> Measured:
    """Runs every probe on the device with one thread.

    Raises:
        DeviceError: the device cannot be used.
    """
    times, unsteady = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number, probe in enumerate(probes, start=1):
            run = board.run(probe.save(Path(folder)), threads=1, seconds=seconds)
            times[probe.name] = run.p50_ms
            if run.unsteady:
                unsteady[probe.name] = run.unsteady
            note = f"  unsteady: {', '.join(run.unsteady)}" if run.unsteady else ""
            say(f"[{number}/{len(probes)}] {probe.name:18}{run.p50_ms:9.3f} ms{note}")
    return Measured(board.about(), times, unsteady)


def calibrate(
    base: HardwareProfile,
    name: str,
    probes: Sequence[Probe],
    measured: Measured,
    counter: Counter | None,
    date: str,
) -> Calibrated:
    """The base profile with its coefficients refined.

    Args:
        base: where the coefficients come from.
        name: of the new profile.
        probes: what was measured.
        measured: their times.
        counter: counts one inference of a file on the base profile's core; None leaves the new
            profile without counts, so that its estimates are analytic.
        date: for the record, as in 2026-01-31.
    """
    times = np.array([measured.times_ms[probe.name] for probe in probes])
    families = [probe.family for probe in probes]
    device = f"{measured.about['cpu']}, onnxruntime {measured.about['onnxruntime']}"
    from_shapes = refine(
        np.array([list(_shape_parts(base, probe).values()) for probe in probes]),
        times,
        families,
        lambda factors: _shape_estimates(_with_shape_factors(base, factors), probes),
    )
    refined = _with_shape_factors(base, from_shapes.factors)
    profile = dataclasses.replace(
        refined,
        name=name,
        title=f"{name} ({measured.about['cpu']})",
        aliases=(),
        cpu=dataclasses.replace(refined.cpu, cores=int(measured.about["cores"])),
        error_pct=round(from_shapes.error_pct, 1),
        error_how=_how(probes, device),
        counts=None,
        sources=(
            *base.sources,
            Source(
                what="refinement of kernels and counts",
                where=f"{len(probes)} probe networks measured on {device}, {date}, by python -m "
                f"hardware_profiles calibrate, from the profile {base.name}",
            ),
        ),
    )
    if counter is None or base.counts is None:
        return Calibrated(profile, from_shapes, None)
    from_counts = refine(
        np.array(_count_parts(base, base.counts, probes, counter)), times, families
    )
    model = _with_count_factors(base.counts, name, from_counts, _how(probes, device))
    return Calibrated(dataclasses.replace(profile, counts=model), from_shapes, from_counts)


def _shape_part(op: str, bits: int) -> str:
    for part, (ops, width) in SHAPE_PARTS.items():
        if op in ops and bits == width:
            return part
    return _REST


def _shape_parts(profile: HardwareProfile, probe: Probe) -> dict[str, float]:
    parts = dict.fromkeys([*SHAPE_PARTS, _REST, _OVERHEAD], 0.0)
    for each in probe.ops:
        overhead = profile.kernel(each.op, each.shape, each.bits).overhead_us * 1e-3
        cost = profile.cost(each.op, each.shape, each.bits)
        parts[_shape_part(each.op, each.bits)] += cost - overhead
        parts[_OVERHEAD] += overhead
    return parts


def _shape_estimates(profile: HardwareProfile, probes: Sequence[Probe]) -> Array:
    return np.array([math.fsum(_shape_parts(profile, probe).values()) for probe in probes])


def _with_shape_factors(base: HardwareProfile, factors: Factors) -> HardwareProfile:
    """Kernels by their part's factor; the memory, which all share, by the scale."""
    names = [*SHAPE_PARTS, _REST, _OVERHEAD]
    by_part = dict(zip(names, factors.parts.tolist(), strict=True))
    kernels = []
    for kernel in base.kernels:
        factor = by_part[_shape_part(kernel.op, kernel.bits)]
        kernels.append(
            dataclasses.replace(
                kernel,
                giga_per_s=_short(kernel.giga_per_s / factor),
                overhead_us=_short(kernel.overhead_us * by_part[_OVERHEAD]),
                ns={name: _short(each * factor) for name, each in kernel.ns.items()},
            )
        )
    bandwidth = _short(base.cpu.bandwidth_gb_s / factors.scale)
    cpu = dataclasses.replace(base.cpu, bandwidth_gb_s=bandwidth)
    return dataclasses.replace(base, kernels=tuple(kernels), cpu=cpu)


def _count_parts(
    base: HardwareProfile, model: CountModel, probes: Sequence[Probe], counter: Counter
) -> list[list[float]]:
    """Milliseconds of each probe by ``COUNT_PARTS``, on one core."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for probe in probes:
            events = features(counter(probe.save(Path(folder))), model.last_level)
            milliseconds = {
                name: model.cycles.get(name, 0.0) * events[name] / base.cpu.ghz * 1e-6
                for name in FEATURES
            }
            rows.append(
                [math.fsum(milliseconds[name] for name in names) for names in COUNT_PARTS.values()]
            )
    return rows


def _with_count_factors(
    base: CountModel, name: str, refined: Refined, error_how: str
) -> CountModel:
    factors = {
        feature: factor
        for names, factor in zip(COUNT_PARTS.values(), refined.factors.parts.tolist(), strict=True)
        for feature in names
    }
    cycles = {feature: _short(each * factors[feature]) for feature, each in base.cycles.items()}
    digest = hashlib.sha256(json.dumps([name, cycles], sort_keys=True).encode()).hexdigest()
    return dataclasses.replace(
        base,
        calibration_id=f"{name}-{digest[:8]}",
        error_pct=round(refined.error_pct, 1),
        largest_error_pct=round(refined.largest_pct, 1),
        rank_correlation=round(refined.rank_correlation, 3),
        error_how=error_how,
        cycles=cycles,
        caveat="",  # that of coefficients from another runtime
        fit=None,
    )


def _how(probes: Sequence[Probe], device: str) -> str:
    families = len({probe.family for probe in probes})
    return (
        f"mean error on {len(probes)} probe networks of {families} architectures measured on "
        f"{device}, 1 thread, each architecture left out of the refinement"
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")
