"""The study: who is asked for the next plan, and where every result is kept.

Optuna's sampler works on a study in memory; each finished trial is copied to the persistent
storage before its result counts as known. Nothing in the storage is ever unfinished, so there
is nothing to repair after a crash, and a sampler's questions never wait for a disk. What is
stored is a study that Optuna's own tools read (``search/deciding/kept.py`` has the attributes).
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.deciding.finals import best_training
from search.deciding.kept import REPEATS, TRAINING, TRIAL, trial_from_json, trial_to_json
from search.deciding.samplers import make_memory, make_sampler
from search.deciding.storage import StoredStudy
from search.trial import Trial
from spaces import CompressionPlan
from spaces.dimension import Dimension, ParamValue, Real
from spaces.space import SearchSpace

log = logging.getLogger(__name__)

WORST_ACCURACY = 0.0
VIOLATION = "violation"  # the one constraint that samplers see
CONSTRAINTS = "constraints"  # Optuna's prefix of what it keeps of them, and its old list of them
_NOT_KEPT = ("fixed_params", "tpe:", CONSTRAINTS)  # parameters of trials under way; see _violated
# One ask in so many is the sampler's, the others are the model's; first it gets to see some.
SAMPLER_EVERY, SAMPLER_FROM = 4, 10
# A question to the model takes some 60 ms. By then it has said what it has to say.
MODEL_UNTIL = 400  # trials
MODELED_AT_ONCE = 8  # of its plans; more at a time would only crowd around the same aims


# From the finished trials, and the plans under way with their origins, to a plan and its origin.
Model = Callable[
    [Sequence[Trial], Sequence[tuple[CompressionPlan, str]]], tuple[CompressionPlan, str] | None
]


@dataclass(frozen=True)
class Ask:
    """A proposal that waits for its result."""

    plan: CompressionPlan
    origin: str
    handle: optuna.Trial


class Study:
    """Ask and tell over plans; a plan that is known is never asked for twice."""

    def __init__(
        self,
        space: SearchSpace,
        storage: optuna.storages.BaseStorage,
        name: str,
        *,
        metric: str,
        sampler: str,
        seed: int,
        model: Model | None = None,
        owner: str | None = None,
        note: Callable[[str], None] = log.warning,
    ) -> None:
        """``model`` proposes plans from the trials so far, beside the sampler's.

        ``owner`` identifies the folder with the study's files, ``note`` takes sentences for the
        person.

        Raises:
            StudyError: the storage has a study of that name that is another one.
        """
        self._space = space
        self._metric = metric
        self._sampler = sampler
        self._seed = seed
        self._model = model
        self._distributions = {d.name: _distribution(d) for d in space.dimensions}
        self._proposals: list[tuple[CompressionPlan, str]] = []
        self._asks = 0
        self._memory = optuna.create_study(
            storage=make_memory(sampler), directions=["maximize", "minimize"]
        )
        self._stored = StoredStudy(storage, name, owner, note, metrics=(metric, "latency_ms"))
        self.trials: list[Trial] = []
        self._params: dict[int, dict[str, ParamValue]] = {}  # by trial
        self.trainings: dict[int, list[Trial]] = {}  # by trial, but for each one's first
        self.elapsed_s = 0.0  # time used when the last trial was told
        self._known: dict[str, Trial] = {}
        self._running: dict[str, Ask] = {}
        self._restore()

    def describe(self, about: Mapping[str, Any]) -> None:
        """Keeps, as an attribute of the study, what is shown of it besides its trials."""
        self._stored.describe(about)

    def propose(self, plans: Sequence[tuple[CompressionPlan, str]]) -> None:
        """Plans, with their origin, to be asked for before the sampler's own."""
        queued = {plan.plan_id for plan, _ in self._proposals}
        for plan, origin in plans:
            if plan.plan_id not in queued and plan.plan_id not in self._known:
                self._proposals.append((plan, origin))
                queued.add(plan.plan_id)

    def consult(self, model: Model) -> None:
        """Lets a model propose plans from the trials so far, beside the sampler."""
        self._model = model

    def is_proposed(self, origin: str) -> bool:
        """Whether the next plan is the one of that origin."""
        return bool(self._proposals) and self._proposals[0][1] == origin

    def clear_proposals(self) -> None:
        """Forgets plans that were proposed and not asked for."""
        self._proposals.clear()

    def ask(self) -> Ask:
        """The next plan: what was proposed first, else the model's or the sampler's.

        The sampler's may be ``known`` or run already (``is_running``): then ``repeat`` or
        ``drop`` it.
        """
        ask = self._ask()
        if ask.plan.plan_id not in self._known:
            self._running.setdefault(ask.plan.plan_id, ask)
        return ask

    def _ask(self) -> Ask:
        self._memory.sampler = make_sampler(self._sampler, self._ask_seed())
        self._asks += 1
        if self._proposals:
            plan, origin = self._proposals.pop(0)
            self._memory.enqueue_trial(self._space.encode(plan))
            return Ask(plan, origin, self._memory.ask(self._distributions))
        modeled = None
        running = [(ask.plan, ask.origin) for ask in self._running.values()]
        if self._model is not None and self._is_models_turn(running):
            modeled = self._model(self.trials, running)
        if modeled is not None:
            plan, origin = modeled
            self._memory.enqueue_trial(self._space.encode(plan))
            return Ask(plan, origin, self._memory.ask(self._distributions))
        handle = self._memory.ask(self._distributions)
        params: Mapping[str, ParamValue] = handle.params
        return Ask(self._space.decode(params), f"sampler:{self._sampler}", handle)

    def _is_models_turn(self, running: Sequence[tuple[CompressionPlan, str]]) -> bool:
        if len(self.trials) >= MODEL_UNTIL:
            return False
        if sum(origin in ("warm", "model") for _, origin in running) >= MODELED_AT_ONCE:
            return False
        return self._asks < SAMPLER_FROM or self._asks % SAMPLER_EVERY != 0

    def known(self, ask: Ask) -> Trial | None:
        """The finished trial of the same plan, if there is one."""
        return self._known.get(ask.plan.plan_id)

    def is_running(self, ask: Ask) -> bool:
        """Whether another question of the same plan waits for its result."""
        return self._running.get(ask.plan.plan_id, ask) is not ask

    def drop(self, ask: Ask) -> None:
        """Takes a question back; the sampler learns nothing from it."""
        self._memory.tell(ask.handle, state=TrialState.FAIL)

    def repeat(self, ask: Ask, trial: Trial) -> None:
        """Tells the sampler what a known plan is worth.

        The question is stored: a resumed study's sampler has to have seen the same.
        """
        frozen = self._tell_sampler(ask, trial)
        attributes = {REPEATS: trial.number, "asks": self._asks}
        self._store(frozen, trial, attributes, self.elapsed_s, state=TrialState.PRUNED)

    def tell(self, ask: Ask, trial: Trial, elapsed_s: float) -> None:
        """Keeps a finished trial and the time used so far; on return it is in the storage."""
        frozen = self._tell_sampler(ask, trial)
        attributes = {TRIAL: trial_to_json(trial), "asks": self._asks}
        self._store(frozen, trial, attributes, elapsed_s)
        self._running.pop(trial.plan.plan_id, None)
        self.elapsed_s = elapsed_s
        self._remember(trial, frozen.params)

    def keep_training(self, trial: Trial, elapsed_s: float) -> None:
        """Keeps another training of a finished trial; on return it is in the storage.

        Samplers and the model go on seeing the first trainings alone, so that a search that is
        resumed with more trials tries what it would have tried had it had them at once.
        """
        frozen = create_trial(
            values=self._values(trial),
            params=self._params[trial.number],
            distributions=self._distributions,
        )
        assert frozen.datetime_complete is not None
        frozen.datetime_start = frozen.datetime_complete - timedelta(seconds=trial.seconds)
        self._store(frozen, trial, {TRAINING: trial_to_json(trial)}, elapsed_s)
        self.elapsed_s = elapsed_s
        self.trainings.setdefault(trial.number, []).append(trial)

    @property
    def finished(self) -> tuple[Trial, ...]:
        """All trials, each with the best of its trainings."""
        found = (best_training([t, *self.trainings.get(t.number, ())]) for t in self.trials)
        return tuple(found)

    def _store(
        self,
        frozen: FrozenTrial,
        trial: Trial,
        attributes: Mapping[str, Any],
        elapsed_s: float,
        state: TrialState | None = None,
    ) -> None:
        """Keeps what the sampler was told; in another ``state`` it has no values."""
        own = {k: v for k, v in frozen.system_attrs.items() if not k.startswith(_NOT_KEPT)}
        readable = {"plan_id": trial.plan.plan_id, "origin": trial.origin, "state": trial.state}
        stored = create_trial(
            state=state or frozen.state,
            values=None if state else frozen.values,
            params=frozen.params,
            distributions=frozen.distributions,
            system_attrs={**own, **_violated(trial)},
            user_attrs={
                **readable,
                **attributes,
                "elapsed_s": elapsed_s,
                "key": uuid.uuid4().hex,
            },
        )
        stored.datetime_start = frozen.datetime_start
        stored.datetime_complete = frozen.datetime_complete
        self._stored.add(stored)

    def _as_told(self, stored: FrozenTrial, trial: Trial) -> FrozenTrial:
        """A stored trial as the sampler has seen it."""
        own = {k: v for k, v in stored.system_attrs.items() if not k.startswith(_NOT_KEPT)}
        failed = trial.state == "failed"
        told = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            values=None if failed else self._values(trial),
            params={name: stored.params[name] for name in self._distributions},
            distributions=self._distributions,
            system_attrs=own,
        )
        if trial.violations and not failed:
            told.set_constraint(VIOLATION, violation(trial))
        return told

    def _tell_sampler(self, ask: Ask, trial: Trial) -> FrozenTrial:
        """A rejected plan is told with the worst accuracy and its violation, so that the
        sampler learns; told as failed, no sampler does.
        """
        if trial.state == "failed":
            return self._memory.tell(ask.handle, state=TrialState.FAIL)
        if trial.violations:
            # In one: a rejected plan has fewer than others, and GP needs as many of each.
            ask.handle.set_constraint(VIOLATION, violation(trial))
        return self._memory.tell(ask.handle, self._values(trial))

    def _values(self, trial: Trial) -> list[float]:
        assert trial.evaluation is not None
        accuracy = WORST_ACCURACY
        if trial.state == "complete":
            accuracy = trial.evaluation.value(self._metric)
        return [accuracy, trial.evaluation.value("latency_ms")]

    def _remember(self, trial: Trial, params: Mapping[str, ParamValue]) -> None:
        self.trials.append(trial)
        self._known[trial.plan.plan_id] = trial
        self._params[trial.number] = dict(params)

    def _restore(self) -> None:
        by_number: dict[int, Trial] = {}
        for stored in self._stored.trials:
            kept = stored.user_attrs
            self.elapsed_s = max(self.elapsed_s, kept["elapsed_s"])
            if TRAINING in kept:
                again = trial_from_json(kept[TRAINING])
                self.trainings.setdefault(again.number, []).append(again)
                continue
            if TRIAL in kept:
                trial = trial_from_json(kept[TRIAL])
                by_number[trial.number] = trial
                self._remember(trial, stored.params)
            self._asks = max(self._asks, kept["asks"])
            number = kept[TRIAL]["number"] if TRIAL in kept else kept[REPEATS]
            self._memory.add_trial(self._as_told(stored, by_number[number]))

    def _ask_seed(self) -> int:
        """Every ask has its own seed, so that a resumed study goes on as an uninterrupted one."""
        text = f"{self._seed}:{self._asks}"
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def violation(trial: Trial) -> float:
    """All by which limits are exceeded, added up; else, zero or below, the least that is left."""
    broken = sum(max(excess, 0.0) for excess in trial.violations.values())
    return broken or max(trial.violations.values())


def _violated(trial: Trial) -> dict[str, Any]:
    """The constraints as ``search/deciding/kept.py`` states them."""
    if not trial.violations or trial.state == "failed":
        return {}
    named = {f"{CONSTRAINTS}:{limit}": excess for limit, excess in trial.violations.items()}
    return {CONSTRAINTS: [violation(trial)], **named}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Real):
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return CategoricalDistribution(dimension.options)
