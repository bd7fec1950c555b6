"""What is proposed under a ceiling of the latency."""

from __future__ import annotations

from fakes import space_of
from test_infeasible import sensitivity

from search.allocation import Allocator
from search.limits import Limits
from search.proposals import OPENING, Proposer
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
