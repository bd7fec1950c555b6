"""From counts of executed instructions and cache misses to milliseconds.

Cycles are a non-negative linear function of the features below, milliseconds are cycles over
clock; ``docs/latency.md`` has the method and its errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hardware_profiles.events import COUNT_COLUMNS, FEATURES, INSTRUCTIONS, MISSES, WORK
from hardware_profiles.profile import CountModel, HardwareProfile, ProfileError

__all__ = ["COUNT_COLUMNS", "FEATURES", "Estimate", "features", "latency_ms", "work_ms"]


# By how much the estimate of onnxruntime's int8 exceeds what was published, at most: ResNet50 on a
# Raspberry Pi 3B+ (onnxruntime's pull request 8695).
TRANSFER_PCT = 34.0
# The largest error of a model left out of the fit over their mean error, on the board where it is
# largest (Raspberry Pi 5, four threads: 58.7 over 14.0 %).
LARGEST_OVER_MEAN = 4.2
LARGEST_PCT = 90.0  # no estimate is said to be more than ten times too short


@dataclass(frozen=True)
class Estimate:
    """A latency from counts, with everything a record must say about it.

    Where a profile has the coefficients of another (a copied file), the error is that one's, and
    ``how`` says so.
    """

    latency_ms: float
    error_pct: float  # mean error on models held out of the calibration
    how: str  # one sentence: threads, how the error was found
    calibration_id: str
    caveat: str
    low_ms: float
    high_ms: float


def features(counts: Mapping[str, float], last_level: str) -> dict[str, float]:
    """Events by ``FEATURES``, from counts by ``COUNT_COLUMNS``.

    Args:
        counts: events of one inference (or one operator).
        last_level: ``l2m`` or ``l3m``, the misses that go to memory.
    """
    misses, stores = counts[last_level], counts["vstore"]
    shared = misses * stores / (misses + stores) if misses > 0 and stores > 0 else 0.0
    return {
        **{name: counts[name] for name in INSTRUCTIONS},
        "l1_misses": counts["l1m"],
        "written_misses": min(misses, stores / 2),
        "shared_misses": shared,
    }


def latency_ms(
    profile: HardwareProfile, counts: Mapping[str, float], threads: int = 1
) -> Estimate:
    """Estimated latency of one inference from its emulated counts.

    Args:
        profile: a device with a ``[counts]`` section.
        counts: events of one inference by ``COUNT_COLUMNS``, counted on
            ``profile.counts.qemu_cpu`` with one thread.
        threads: worker threads on the device, at most its cores.

    Raises:
        ProfileError: the profile has no coefficients for counts, or not that many cores.
    """
    model = _model(profile)
    factors = thread_factors(profile, threads)
    error_pct, how = model.error_pct, model.error_how
    if threads > 1:
        nearest = _fitted_threads(model, threads)
        error_pct = model.threads[str(nearest)].error_pct
        how = model.threads[str(nearest)].error_how
        if nearest != threads:
            how += f"; interpolated to {threads} threads"
    fitted_for = model.calibration_id.rpartition("-")[0]
    if fitted_for not in ("", profile.name):
        how += f"; coefficients and error are those of {fitted_for}"
    total_ms = math.fsum(_parts(profile, model, counts, factors).values())
    largest_pct = model.largest_error_pct
    if threads > 1 or not largest_pct:
        largest_pct = LARGEST_OVER_MEAN * error_pct
    transfer_pct = TRANSFER_PCT if model.caveat else 0.0
    return Estimate(
        latency_ms=total_ms,
        error_pct=error_pct,
        how=how,
        calibration_id=model.calibration_id,
        caveat=model.caveat,
        low_ms=total_ms / (1 + max(largest_pct, transfer_pct) / 100),
        # An error is a share of what was published: the truth is the estimate over one less it.
        high_ms=total_ms / (1 - min(largest_pct, LARGEST_PCT) / 100),
    )


def work_ms(
    profile: HardwareProfile, counts: Mapping[str, float], threads: int = 1
) -> dict[str, float]:
    """The estimate of ``latency_ms`` split by ``WORK``; the parts add up to it.

    Raises:
        ProfileError: as ``latency_ms``.
    """
    parts = _parts(profile, _model(profile), counts, thread_factors(profile, threads))
    return {
        work: math.fsum(parts.get(name, 0.0) for name in names) for work, names in WORK.items()
    }


def thread_factors(profile: HardwareProfile, threads: int) -> dict[str, float]:
    """What ``threads`` threads leave of one thread's time, by feature.

    Between 1 and a published thread count n the factor f follows the power law
    ``f(k) = f(n) ** (ln k / ln n)``, which is 1 at one thread.

    Raises:
        ProfileError: the device has not that many cores, or no published thread count.
    """
    if not 1 <= threads <= profile.cpu.cores:
        raise ProfileError(
            f"threads must be from 1 to {profile.cpu.cores}, the cores of {profile.name!r}, "
            f"but got {threads}"
        )
    if threads == 1:
        return dict.fromkeys(FEATURES, 1.0)
    model = _model(profile)
    nearest = _fitted_threads(model, threads)
    if not nearest:
        raise ProfileError(
            f"{profile.name!r} has no thread factors, so that threads must be 1, but got "
            f"{threads}; add a [counts.threads] section"
        )
    fitted = model.threads[str(nearest)]
    power = math.log(threads) / math.log(nearest)
    return {
        **dict.fromkeys(INSTRUCTIONS, fitted.instructions**power),
        **dict.fromkeys(MISSES, fitted.memory**power),
        "l1_misses": fitted.l1_misses**power,
    }


def _model(profile: HardwareProfile) -> CountModel:
    if profile.counts is None:
        raise ProfileError(
            f"an estimate from counts needs a profile with a [counts] section, but "
            f"{profile.name!r} has none; use the analytic tier"
        )
    return profile.counts


def _fitted_threads(model: CountModel, threads: int) -> int:
    """The smallest fitted thread count that is not below ``threads``, or the largest one."""
    fitted = sorted(int(count) for count in model.threads)
    above = [count for count in fitted if count >= threads]
    return above[0] if above else max(fitted, default=0)


def _parts(
    profile: HardwareProfile,
    model: CountModel,
    counts: Mapping[str, float],
    factors: Mapping[str, float],
) -> dict[str, float]:
    """Milliseconds by feature."""
    events = features(counts, model.last_level)
    return {
        name: each * events[name] * factors[name] / profile.cpu.ghz * 1e-6
        for name, each in model.cycles.items()
    }
