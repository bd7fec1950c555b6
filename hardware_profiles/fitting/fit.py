"""New coefficients, with their errors and ids, for every profile that says what to fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import numpy as np

from hardware_profiles.counts import TRANSFER_PCT, latency_ms
from hardware_profiles.events import FEATURES
from hardware_profiles.fitting.held_out import HeldOut, held_out, lent_factors
from hardware_profiles.fitting.least_squares import Array, fit_cycles, fit_factors
from hardware_profiles.fitting.samples import calibration_of, published_samples
from hardware_profiles.fitting.tables import shipped_counts
from hardware_profiles.profile import (
    Calibration,
    CountModel,
    HardwareProfile,
    ProfileError,
    ThreadFactors,
)

# The one public latency of ONNX Runtime on these cores for which there are counts:
# huggingface.co/Arm/inception-v3-int8-mlas-onnx-raspberrypi5.
_TRANSFER = ("raspberry-pi-5", "inception_v3_299_s8s8", 113.11)


def fit_profiles(profiles: Mapping[str, HardwareProfile]) -> dict[str, CountModel]:
    """The fitted [counts] sections by profile name.

    Raises:
        ProfileError: too little is published for one, or it borrows from one without a fit.
    """
    fitted: dict[str, CountModel] = {}
    waiting = {
        name: profile.counts
        for name, profile in profiles.items()
        if profile.counts is not None and profile.counts.fit is not None
    }
    while waiting:
        ready = [
            name
            for name, model in waiting.items()
            if lenders(calibration_of(profiles[name], model)) <= fitted.keys()
        ]
        if not ready:
            raise ProfileError(
                "cycles_from and threads_from must name profiles that are fitted themselves, "
                f"but these wait for others: {', '.join(waiting)}"
            )
        for name in ready:
            fitted[name] = _fit(profiles[name], waiting.pop(name), fitted)
    caveat = transfer(profiles, fitted)
    return {
        name: dataclasses.replace(model, caveat=caveat) for name, model in sorted(fitted.items())
    }


def transfer(profiles: Mapping[str, HardwareProfile], fitted: Mapping[str, CountModel]) -> str:
    """How far ncnn's coefficients carry over to ONNX Runtime, in one sentence."""
    name, model, published_ms = _TRANSFER
    profile = dataclasses.replace(profiles[name], counts=fitted[name])
    counts = next(
        row.counts
        for row in shipped_counts()
        if (row.model, row.qemu_cpu) == (model, fitted[name].qemu_cpu)
    )
    estimated_ms = latency_ms(profile, counts).latency_ms
    return (
        "the coefficients come from ncnn's kernels and reach ONNX Runtime's through instruction "
        f"classes; of two public checks in int8, Inception-v3 on a {profile.title} is "
        f"{estimated_ms:.0f} ms estimated against {published_ms:.0f} ms published "
        f"({estimated_ms / published_ms - 1:.0%} too long, threads unstated), and ResNet50 on a "
        f"Raspberry Pi 3B+ is {TRANSFER_PCT:g} % too long; below 12 ms nothing was checked"
    ).replace("% too", " % too", 1)


def lenders(calibration: Calibration) -> set[str]:
    """Names of the profiles whose coefficients or thread factors the calibration takes."""
    return {calibration.cycles_from, calibration.threads_from} - {""}


def _fit(
    profile: HardwareProfile, model: CountModel, fitted: Mapping[str, CountModel]
) -> CountModel:
    """The profile's [counts] section anew; ``fitted`` has those it borrows from."""
    calibration = calibration_of(profile, model)
    first = calibration.threads[0]
    if calibration.threads_from:
        model = dataclasses.replace(model, threads=fitted[calibration.threads_from].threads)
    if calibration.cycles_from:
        cycles = np.array([fitted[calibration.cycles_from].cycles[name] for name in FEATURES])
    else:
        known = published_samples(profile, model, first)
        cycles = fit_cycles(known, calibration, lent_factors(model, first))
    model = dataclasses.replace(
        model, cycles={name: _short(each) for name, each in zip(FEATURES, cycles, strict=True)}
    )
    found = held_out(profile, model, first)
    model = dataclasses.replace(
        model,
        error_pct=round(found.error_pct, 1),
        largest_error_pct=round(found.largest_pct, 1),
        rank_correlation=round(found.rank_correlation, 3),
        error_how=_how(calibration, found, first),
        threads={
            str(threads): _fit_threads(profile, model, cycles, threads)
            for threads in calibration.threads
            if threads > 1
        },
    )
    return dataclasses.replace(model, calibration_id=_identify(profile, model))


def _fit_threads(
    profile: HardwareProfile, model: CountModel, cycles: Array, threads: int
) -> ThreadFactors:
    calibration = calibration_of(profile, model)
    found = held_out(profile, model, threads)
    if calibration.threads_from:
        factors = model.threads[str(threads)]
    else:
        known = published_samples(profile, model, threads)
        instructions, l1_misses, memory = map(_short, fit_factors(known, cycles, threads))
        factors = ThreadFactors(instructions, l1_misses, memory, error_pct=0, error_how="")
    return dataclasses.replace(
        factors,
        error_pct=round(found.error_pct, 1),
        error_how=_how(calibration, found, threads),
    )


def _how(calibration: Calibration, found: HeldOut, threads: int) -> str:
    text = (
        f"mean error on {len(found.samples.models)} published ncnn models in {found.families} "
        f"families, each family left out of the fit, {calibration.device}, {threads} "
        f"thread{'s' if threads > 1 else ''}"
    )
    return f"{text}; {calibration.note}" if calibration.note else text


def _identify(profile: HardwareProfile, model: CountModel) -> str:
    factors = {
        threads: [each.instructions, each.l1_misses, each.memory]
        for threads, each in model.threads.items()
    }
    text = json.dumps([profile.cpu.ghz, dict(model.cycles), factors], sort_keys=True)
    return f"{profile.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _short(value: float) -> float:
    return float(f"{value:.4g}")
