"""Errors on models whose whole architecture family was left out of the fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from hardware_profiles.events import FEATURES
from hardware_profiles.fitting.least_squares import Array, fit_cycles, fit_factors, spread
from hardware_profiles.fitting.samples import Samples, calibration_of, published_samples
from hardware_profiles.profile import CountModel, HardwareProfile, ProfileError


@dataclass(frozen=True)
class HeldOut:
    """Estimates of models whose family was left out; ``ratio`` is estimated over published."""

    samples: Samples
    ratio: Array

    @property
    def error_pct(self) -> float:
        """Mean absolute relative error in percent."""
        return float(np.abs(self.ratio - 1).mean() * 100)

    @property
    def largest_pct(self) -> float:
        """Largest absolute relative error in percent."""
        return float(np.abs(self.ratio - 1).max() * 100)

    @property
    def rank_correlation(self) -> float:
        """Spearman's, of estimated against published latencies."""
        published = self.samples.cycles
        return float(spearmanr(self.ratio * published, published).statistic)

    @property
    def families(self) -> int:
        """Number of families, each left out once."""
        return len(set(self.samples.families))


def held_out(profile: HardwareProfile, model: CountModel, threads: int) -> HeldOut:
    """Leave-one-family-out estimates for the board that ``model`` is fitted on.

    Whatever is fitted on that board (coefficients, thread factors) is fitted without the
    family; what the calibration borrows is taken from ``model`` as it stands.

    Raises:
        ProfileError: too little is published for the board at ``threads`` threads.
    """
    calibration = calibration_of(profile, model)
    known = published_samples(profile, model, threads)
    first = calibration.threads[0]

    def cycles_without(left_out: str) -> Array:
        if calibration.cycles_from:
            return np.array([model.cycles[name] for name in FEATURES])
        alone = published_samples(profile, model, first)
        return fit_cycles(
            alone.take(alone.families != left_out), calibration, lent_factors(model, first)
        )

    def without(rest: Samples, left_out: str) -> Array:
        cycles = cycles_without(left_out)
        if threads == 1:
            return cycles
        if calibration.threads_from:
            return cycles * lent_factors(model, threads)
        return cycles * spread(fit_factors(rest, cycles, threads))

    return _leave_out(known, without)


def split_errors(profile: HardwareProfile, model: CountModel, splits: int) -> Array:
    """Mean errors in percent at the first published thread count, shape (splits,).

    Each time a third of the families, drawn at random, is left out of the fit and estimated.

    Raises:
        ProfileError: too little is published for the board, or nothing is fitted on it.
    """
    calibration = calibration_of(profile, model)
    if calibration.cycles_from:
        raise ProfileError(
            f"{profile.name!r} has the coefficients of {calibration.cycles_from}, which are not "
            "fitted on this board; look at that one"
        )
    first = calibration.threads[0]
    known, factors = published_samples(profile, model, first), lent_factors(model, first)
    names = np.array(sorted(set(known.families)))
    draw = np.random.default_rng(0)
    errors = np.zeros(splits)
    for index in range(splits):
        chosen = draw.choice(names, size=len(names) // 3, replace=False)
        out = np.isin(known.families, chosen)
        cycles = factors * fit_cycles(known.take(~out), calibration, factors)
        errors[index] = np.abs(known.events[out] @ cycles / known.cycles[out] - 1).mean() * 100
    return errors


def lent_factors(model: CountModel, threads: int) -> Array:
    """The model's factors at ``threads`` threads as factors of the features; ones at one."""
    if threads == 1:
        return np.ones(len(FEATURES))
    found = model.threads[str(threads)]
    return spread(np.array([found.instructions, found.l1_misses, found.memory]))


def _leave_out(known: Samples, fit: Callable[[Samples, str], Array]) -> HeldOut:
    ratio = np.zeros(len(known.models))
    for left_out in dict.fromkeys(known.families):
        mask = known.families == left_out
        ratio[mask] = known.events[mask] @ fit(known.take(~mask), left_out) / known.cycles[mask]
    return HeldOut(known, ratio)
