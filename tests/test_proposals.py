"""What is proposed under a ceiling of the latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
from fakes import space_of
from test_infeasible import sensitivity

from evaluators import Evaluation, Measurement
from search.deciding.allocation import Allocator
from search.deciding.proposals import OPENING, Proposer
from search.limits import Limits
from search.trial import Trial
from spaces import CompressionPlan

SPACE = space_of()


def modeled_ms(plan: CompressionPlan) -> float:
    return SPACE.table(plan).latency_ms(SPACE.profile)


def proposed(limits: Limits, count: int) -> list[CompressionPlan]:
    """Plans in the order in which they are proposed; none is ever finished."""
    proposer, trials = Proposer(SPACE, sensitivity(), limits), list[Trial]()
    while len(trials) < count:
        found = proposer.next(trials)
        if found is None:
            break
        plan, origin = found
        trials.append(Trial(len(trials), plan, "rejected", origin))
    return [trial.plan for trial in trials]


def test_nothing_slower_than_the_ceiling_is_proposed() -> None:
    fastest_ms = Allocator(SPACE, sensitivity()).fastest_ms()
    ceiling_ms = (fastest_ms + modeled_ms(CompressionPlan())) / 2
    free = proposed(Limits(0.03), OPENING + 3)
    limited = proposed(Limits(0.03, max_latency_ms=ceiling_ms), OPENING + 3)
    assert max(map(modeled_ms, free)) > ceiling_ms
    assert max(map(modeled_ms, limited)) <= ceiling_ms


def test_fastest_plan_is_proposed_first_when_none_is_fast_enough() -> None:
    fastest_ms = Allocator(SPACE, sensitivity()).fastest_ms()
    first, *others = proposed(Limits(0.03, max_latency_ms=fastest_ms / 2), OPENING)
    assert modeled_ms(first) == fastest_ms
    assert not others


def finished(number: int, plan: CompressionPlan, ratio: float, origin: str = "warm") -> Trial:
    """One whose latency is ``ratio`` times the modeled one."""
    figures = {"latency_ms": ratio * modeled_ms(plan), "drop": 0.1}
    named = [Measurement(name, v, "", "measured", "made up") for name, v in figures.items()]
    evaluation, violations = Evaluation.of(named), {"drop": 0.07}
    return Trial(number, plan, "complete", origin, evaluation, violations, rung="full")


def with_drop(trial: Trial, drop: float) -> Trial:
    assert trial.evaluation is not None
    figure = replace(trial.evaluation["drop"], value=drop)
    return replace(trial, evaluation=trial.evaluation.merged(Evaluation.of([figure])))


def test_ceiling_is_in_milliseconds_as_they_were_measured() -> None:
    """A board on which all takes twice as long as modeled halves what may be proposed."""
    ceiling_ms = 0.8 * modeled_ms(CompressionPlan())
    seen = [finished(0, CompressionPlan(), 2.0, "baseline:fp32")]
    proposer = Proposer(SPACE, sensitivity(), Limits(0.03, max_latency_ms=ceiling_ms))
    found = proposer.next(seen)
    assert found is not None
    assert modeled_ms(found[0]) <= ceiling_ms / 2


def test_model_goes_on_where_the_opening_has_nothing_new() -> None:
    """Every plan around the opening's aim is known, and there were fewer than its four."""
    proposer = Proposer(SPACE, sensitivity(), Limits(0.03))
    trials = [finished(0, CompressionPlan(), 1.0, "baseline:fp32")]
    while (found := proposer.next(trials)) and found[1] == "warm" and len(trials) < 40:
        # Other samplers came across the opening's plans before the model did.
        trials.append(finished(len(trials), found[0], 1.0, "sampler:tpe"))
    assert found is not None
    assert found[1] == "model"


def test_aim_without_anything_new_gives_its_turn_to_the_next() -> None:
    """The fastest plan of all is known and meets the limit, so nothing can be pressed below it."""
    proposer = Proposer(SPACE, sensitivity(), Limits(0.03))
    fastest = Allocator(SPACE, sensitivity()).solve(0.0)
    best = Allocator(SPACE, sensitivity()).plan(fastest)
    trials = [finished(0, CompressionPlan(), 1.0, "baseline:fp32")]
    trials += [
        replace(finished(n, plan, 1.0), violations={"drop": -0.01})
        for n, plan in enumerate([best, *proposed(Limits(0.03), OPENING)], start=1)
    ]
    proposals = []
    while (found := proposer.next(trials)) and len(proposals) < 3:
        assert found[1] == "model"
        proposals.append(found[0])
        trials.append(
            replace(finished(len(trials), found[0], 1.0, "model"), violations={"drop": -0.01})
        )
    assert len(proposals) == 3
    assert min(map(modeled_ms, proposals)) > modeled_ms(best)


FOREIGN = {"theirs": {"strength": 3}}  # a setting of somebody's technique


def with_foreign(plan: CompressionPlan) -> CompressionPlan:
    return CompressionPlan({**plan.settings, **FOREIGN})


SLOW_MS = modeled_ms(CompressionPlan())


def searched(count: int) -> list[Trial]:
    """The untouched model and what was proposed after it; what is twice as fast loses too much."""
    plans = proposed(Limits(0.03), count)
    trials = [finished(0, CompressionPlan(), 1.0, "baseline:fp32")]
    trials += [finished(n, plan, 1.0) for n, plan in enumerate(plans, start=1)]
    slow_ms = modeled_ms(CompressionPlan()) / 2
    return [
        replace(t, violations={"drop": -0.01}) if modeled_ms(t.plan) > slow_ms else t
        for t in trials
    ]


@pytest.mark.parametrize("ratio", [1.0, 5.0])
@pytest.mark.parametrize("int8_ratio", [1.0, 9.0])
def test_foreign_settings_teach_the_model_nothing(ratio: float, int8_ratio: float) -> None:
    """Plans with them break the limit, and may be slow; that may be the settings' doing."""
    limits = Limits(0.03, max_latency_ms=modeled_ms(CompressionPlan()))
    trials = searched(OPENING)
    fastest_ms = min(modeled_ms(t.plan) for t in trials if t.feasible)
    allocator = Allocator(SPACE, sensitivity())
    near = allocator.plan(allocator.solve(0.99 * fastest_ms))
    foreign = [
        finished(n, with_foreign(plan), ratio * int8_ratio ** ("quantization" in plan.settings))
        for n, plan in enumerate([near, *proposed(Limits(0.03), OPENING + 2)], len(trials))
    ]
    without = Proposer(SPACE, sensitivity(), limits).next(trials)
    assert without is not None
    assert Proposer(SPACE, sensitivity(), limits).next([*trials, *foreign]) == without
    # The same would teach it a lot without the settings.
    same = [replace(t, plan=CompressionPlan({**t.plan.settings, "theirs": {}})) for t in foreign]
    assert Proposer(SPACE, sensitivity(), limits).next([*trials, *same]) != without


def test_plan_with_foreign_settings_that_meets_the_limits_is_on_the_front() -> None:
    trials = searched(OPENING)
    broken = min((t for t in trials if not t.feasible), key=lambda t: modeled_ms(t.plan))
    met = replace(
        finished(len(trials), with_foreign(broken.plan), 1.0, "sampler:tpe"),
        violations={"drop": -0.01},
    )
    found = Proposer(SPACE, sensitivity(), Limits(0.03)).next([*trials, met])
    assert found is not None
    assert modeled_ms(found[0]) < modeled_ms(met.plan)
    before = Proposer(SPACE, sensitivity(), Limits(0.03)).next(trials)
    assert before is not None
    assert modeled_ms(before[0]) > modeled_ms(met.plan)


def test_first_aim_of_the_model_halves_the_gap() -> None:
    """Between the fastest plan that meets the limit and the slowest of those beyond it."""
    allocator = Allocator(SPACE, sensitivity())
    low, high = (allocator.solve(ms) for ms in (0.3 * SLOW_MS, 0.8 * SLOW_MS))
    low_ms, high_ms = map(allocator.latency_ms, (low, high))
    plans = [allocator.plan(low), allocator.plan(high)]
    trials = [finished(n, plan, 1.0) for n, plan in enumerate(plans)]
    trials[1] = replace(trials[1], violations={"drop": -0.01})
    trials += [replace(trials[1], number=n) for n in range(2, OPENING)]  # the opening is over
    assert high_ms > 2 * low_ms
    found = Proposer(SPACE, sensitivity(), Limits(0.03)).next(trials)
    assert found is not None
    assert found[1] == "model"
    assert modeled_ms(found[0]) == pytest.approx(math.sqrt(low_ms * high_ms), rel=0.1)


def test_model_spares_what_was_measured_to_hurt() -> None:
    """The same plans and limits; what was lost is one group's doing, or another's."""
    groups = [group.name for group in SPACE.network.groups]

    def narrowed_where(hurts: str) -> Mapping[str, int]:
        trials = []
        for number, name in enumerate([*groups, *groups]):
            plan = CompressionPlan({"pruning": {"kept": {name: 8}}})
            drop = 0.3 if name == hurts else 0.001
            trial = with_drop(finished(number, plan, 1.0), drop)
            trials.append(replace(trial, violations={"drop": -0.01}))
        found = Proposer(SPACE, sensitivity(), Limits(0.4)).next(trials)
        assert found is not None
        kept: Mapping[str, int] = found[0].settings["pruning"]["kept"]
        return kept

    one, other = "wider.0", "high.first.0"
    assert one not in narrowed_where(one)
    assert one in narrowed_where(other)
