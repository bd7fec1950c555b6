"""From counts of executed instructions and cache misses to milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hardware_profiles.profile import HardwareProfile, ProfileError

# What the counting plugin reports for one inference; also the columns of emulated_counts.csv.
COUNT_COLUMNS: tuple[str, ...] = (
    *("total", "fmla32", "fmla16", "dot", "mmla", "imul_w", "adalp"),
    *("vload", "vstore", "sload", "sstore", "simd_other", "branch", "int"),
    *("acc", "l1m", "l2m", "l3m", "l1s", "l2s", "l3s"),
)


@dataclass(frozen=True)
class Estimate:
    """A latency from counts, with everything a record must say about it."""

    latency_ms: float
    error_pct: float  # mean error on models held out of the calibration
    how: str  # one sentence: tier, threads, how the error was found
    calibration_id: str
    caveat: str


def latency_ms(
    profile: HardwareProfile, counts: Mapping[str, float], threads: int = 1
) -> Estimate:
    """Estimated latency of one inference from its emulated counts.

    Args:
        profile: a device with a ``[counts]`` section.
        counts: events of one inference by ``COUNT_COLUMNS``, counted on
            ``profile.counts.qemu_cpu`` with one thread.
        threads: worker threads on the device.

    Raises:
        ProfileError: the profile has no coefficients for counts.
    """
    model = profile.counts
    if model is None:
        raise ProfileError(
            f"an estimate from counts needs a profile with a [counts] section, but "
            f"{profile.name!r} has none; use the analytic tier"
        )
    cycles = sum(each * counts[name] for name, each in model.cycles.items())
    return Estimate(
        latency_ms=cycles / profile.cpu.ghz * 1e-6 / min(threads, profile.cpu.cores) ** 0.5,
        error_pct=model.error_pct,
        how=f"estimated from emulated counts at {threads} thread(s); {model.error_how}",
        calibration_id=model.calibration_id,
        caveat=model.caveat,
    )
