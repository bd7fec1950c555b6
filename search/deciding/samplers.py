"""Optuna's samplers by the names that ``--sampler`` takes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.deciding.pareto import ranks

STARTUP_TRIALS = 8
# TPE's and GP's questions take time in proportion to the trials they look at, and more: beyond
# so many they are shown the best and the latest.
SHOWN_BEST, SHOWN_LATEST = 60, 60
_RANKED_EVERY = 50  # trials; at most SHOWN_LATEST
_LIMITED = ("tpe", "gp")


class _OneSpace(optuna.samplers.TPESampler):
    """Every trial has every dimension, so that no intersection of all trials' is needed."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The dimensions of any finished trial."""
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not finished:
            return {}
        found = sorted(finished[-1].distributions.items())
        return {name: each for name, each in found if not each.single()}


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return _OneSpace(
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


class _Limited(optuna.storages.InMemoryStorage):
    """Shows samplers the best and the latest finished trials, and the latest that run.

    Which ones those are depends on the trials and their order alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ranked = 0
        self._best: frozenset[int] = frozenset()
        self._view: list[FrozenTrial] | None = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As every storage."""
        self._view = None
        return super().create_new_trial(study_id, template_trial)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As every storage."""
        self._view = None
        return super().set_trial_state_values(trial_id, state, values)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """As every storage, but for what is left out."""
        if states == (TrialState.WAITING,):  # which the original has at hand
            return super().get_all_trials(study_id, deepcopy, states)
        if self._view is None:  # looked for once a question
            self._view = self._shown(super().get_all_trials(study_id, deepcopy=False))
        found = [t for t in self._view if states is None or t.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        finished = [t for t in trials if t.state == TrialState.COMPLETE]
        if len(finished) <= SHOWN_BEST + SHOWN_LATEST:
            return trials
        settled = len(finished) // _RANKED_EVERY * _RANKED_EVERY
        if settled != self._ranked:
            self._ranked = settled
            self._best = frozenset(_best_of(finished[:settled]))
        under_way = [t for t in trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
        latest = (*finished[-SHOWN_LATEST:], *under_way[-SHOWN_LATEST:])
        shown = self._best.union(t.number for t in latest)
        return [t for t in trials if t.number in shown]


def _best_of(trials: Sequence[FrozenTrial]) -> list[int]:
    """Numbers of the best by constrained domination; of equals, the oldest."""
    losses = [(-t.values[0], t.values[1]) for t in trials]
    broken = [sum(max(v, 0.0) for v in t.constraints.values()) for t in trials]
    order = np.argsort(ranks(losses, broken), kind="stable")[:SHOWN_BEST]
    return [trials[i].number for i in order]


def make_memory(name: str) -> optuna.storages.BaseStorage:
    """Where a sampler's study is to be kept while the search runs."""
    return _Limited() if name in _LIMITED else optuna.storages.InMemoryStorage()


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
