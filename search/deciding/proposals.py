"""Plans that are thought out before anything is trained: the warm start, and what follows it.

The additive model of ``allocation`` opens the study with plans along the whole latency range.
From then on it is corrected by what was measured, drops and latencies, and proposes where the next
measurement can move the front: between the fastest plan that meets the limit and those just beyond
it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from statistics import median

from search.deciding.allocation import Allocator
from search.deciding.correction import correct
from search.deciding.latency_correction import Speeds, by_bits, speeds
from search.deciding.rungs import RUNGS
from search.deciding.sensitivity import Sensitivity
from search.limits import Limits
from search.trial import Trial
from spaces import CompressionPlan
from spaces.space import SearchSpace

OPENING = 4
CLOSE = 1.06  # neighbors on the latency axis nearer than this need no plan between them
PRESS = 0.9  # of the fastest feasible latency: the next thing to try
TRIES = 8


class Proposer:
    """Proposes plans from the trials so far alone, so that a resumed search goes on the same."""

    def __init__(self, space: SearchSpace, sensitivity: Sensitivity, limits: Limits) -> None:
        self._space = space
        self._stated = space.profile
        self._sensitivity = sensitivity
        self._limits = limits
        self._speeds = Speeds()
        self._by_bits: dict[str, tuple[float, float]] = {}  # of each plan, looked at once
        self._prior = Allocator(space, sensitivity)
        self._seen_ms: dict[str, float] = {}  # of each plan on the profile as it is taken now

    def next(
        self, trials: Sequence[Trial], running: Sequence[tuple[CompressionPlan, str]] = ()
    ) -> tuple[CompressionPlan, str] | None:
        """A plan that is not among ``trials``, and its origin; None when there is nothing new.

        Nor is it among those that are ``running``, plans with their origins; what they aim at is
        taken as done.

        The first few (``warm``) lie evenly, in the logarithm, between the fastest simple plan
        that meets the limits and the fastest plan of all: what is slower has no chance. After
        that (``model``) they alternate between halving the gap around the limit, pressing below
        the fastest feasible plan, and filling the widest gap of the front.
        """
        known = {trial.plan.plan_id for trial in trials} | {plan.plan_id for plan, _ in running}
        origins = [t.origin for t in trials] + [origin for _, origin in running]
        # What was not trained at all says little about what training makes of it.
        trained = [t for t in trials if t.state == "complete" and t.rung != RUNGS[0].name]
        # What settings do of which the model knows nothing, no width or bits of it have done.
        own = [t for t in trained if not self._prior.foreign(t.plan)]
        self._learn_speeds(own)
        # Yet what meets the limits is on the front, whatever it owes that to.
        finished = [t for t in trained if t.feasible or not self._prior.foreign(t.plan)]
        latencies = {t.number: self._modeled_ms(t.plan) for t in finished}
        ceiling_ms = self._ceiling_ms(own, latencies)
        warm = origins.count("warm")
        if warm < OPENING:
            simple = [t for t in finished if t.is_baseline]
            start_ms = min(self._fastest_feasible(simple, latencies), ceiling_ms)
            share = (warm + 1) / (OPENING + 1)
            aim_ms = start_ms * (self._prior.fastest_ms() / start_ms) ** share
            found = self._near(min(aim_ms, ceiling_ms), self._prior, known)
            if found is not None:
                return found, "warm"
        correction = correct(self._prior, own)
        allocator = self._prior.weighted(correction.weights if correction else {})
        aims = (self._halving, self._pressing, self._filling)
        turn = origins.count("model")
        for step in range(len(aims)):  # where one has nothing new, the next has its turn
            aim_ms = aims[(turn + step) % len(aims)](finished, latencies)
            found = self._near(min(aim_ms, ceiling_ms), allocator, known)
            if found is not None:
                return found, "model"
        return None

    def _learn_speeds(self, finished: Sequence[Trial]) -> None:
        """Begins anew where the machine turns out to be another than its profile has it."""
        seen = []
        for trial in finished:
            assert trial.evaluation is not None
            plan = trial.plan
            if plan.plan_id not in self._by_bits:
                self._by_bits[plan.plan_id] = by_bits(self._space.table(plan), self._stated)
            measured_ms = trial.evaluation.value("latency_ms")
            seen.append((self._by_bits[plan.plan_id], measured_ms))
        found = speeds(seen)
        if found == self._speeds:
            return
        self._speeds = found
        self._space = replace(self._space, profile=found.of(self._stated))
        self._prior = Allocator(self._space, self._sensitivity)
        self._seen_ms = {}

    def _near(
        self, aim_ms: float, allocator: Allocator, known: Container[str]
    ) -> CompressionPlan | None:
        """An unknown plan around the aim, ever further, faster first."""
        for attempt in range(TRIES):
            factor = 0.96 ** ((attempt + 1) // 2 * (1 if attempt % 2 else -1))
            plan = allocator.plan(allocator.solve(aim_ms * factor))
            if plan.plan_id not in known:
                return plan
        return None

    def _ceiling_ms(self, finished: Sequence[Trial], latencies: Mapping[int, float]) -> float:
        """The person's limit in the model's terms: nothing slower is of use.

        Where nothing is so fast, the fastest plan shows by how much.
        """
        if self._limits.max_latency_ms is None:
            return math.inf
        measured = [
            t.evaluation.value("latency_ms") / latencies[t.number]
            for t in finished
            if t.evaluation is not None
        ]
        return self._limits.max_latency_ms / (median(measured) if measured else 1.0)

    def _modeled_ms(self, plan: CompressionPlan) -> float:
        """The model's own latency of a plan: aims and solutions are in its terms."""
        if plan.plan_id not in self._seen_ms:
            table = self._space.table(plan)
            self._seen_ms[plan.plan_id] = table.latency_ms(self._space.profile)
        return self._seen_ms[plan.plan_id]

    def _halving(self, finished: Sequence[Trial], latencies: Mapping[int, float]) -> float:
        """Halfway, in the logarithm, between the fastest feasible and the slowest beyond it."""
        fastest = self._fastest_feasible(finished, latencies)
        beyond = [latencies[t.number] for t in finished if not t.feasible]
        below = [ms for ms in beyond if ms < fastest]
        slowest = max(below, default=self._prior.fastest_ms())
        if fastest / slowest < CLOSE:
            return fastest * PRESS
        return math.sqrt(fastest * slowest)

    def _pressing(self, finished: Sequence[Trial], latencies: Mapping[int, float]) -> float:
        return self._fastest_feasible(finished, latencies) * PRESS

    def _filling(self, finished: Sequence[Trial], latencies: Mapping[int, float]) -> float:
        """The middle of the widest gap below the fastest simple plan that meets the limits."""
        simple = [t for t in finished if t.is_baseline]
        top_ms = self._fastest_feasible(simple, latencies)
        marks = sorted({self._prior.fastest_ms(), *(v for v in latencies.values() if v <= top_ms)})
        gaps = [(high / low, math.sqrt(high * low)) for low, high in itertools.pairwise(marks)]
        return max(gaps)[1] if gaps else self._pressing(finished, latencies)

    def _fastest_feasible(
        self, finished: Sequence[Trial], latencies: Mapping[int, float]
    ) -> float:
        feasible = [latencies[t.number] for t in finished if t.feasible]
        return min(feasible, default=self._prior.latency_ms(self._prior.untouched))
