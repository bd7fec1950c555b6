"""Optuna's samplers by the names that ``--sampler`` takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import optuna
from optuna.trial import FrozenTrial

STARTUP_TRIALS = 8


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, n_startup_trials=STARTUP_TRIALS, constant_liar=True
    )


def _gp(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)


class _Resumable(optuna.samplers.NSGAIISampler):
    """Sees parents in one order, where the original has another at its first look at them.

    A resumed study would otherwise go on differently from an uninterrupted one.
    """

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Parents of a generation, oldest first."""
        return sorted(super().select_parent(study, generation), key=lambda t: t.number)


def _nsga2(seed: int) -> optuna.samplers.BaseSampler:
    return _Resumable(seed=seed, population_size=16)


def _random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": _nsga2,
    "random": _random,
}


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """A fresh sampler; the same name and seed propose the same after the same trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed)
