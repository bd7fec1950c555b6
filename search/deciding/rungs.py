"""Fidelities, and who goes on to the next one.

Asynchronous successive halving on several objectives (MO-ASHA: Schmucker et al. 2021), in its
stopping form: as soon as a plan's figures at a rung are there, it goes on or it ends. It goes
on when its non-dominated rank, violations of limits first, is among the best 1/REDUCTION of
all plans seen at that rung, or when it could still enter the feasible front if training cut its
drop as it cut that of others at best, twice over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluators import Evaluation
from search.deciding.pareto import ranks

REDUCTION = 3
# What training does to a drop is taken from those that went on; before there are so many,
# everything goes on.
LEAST_EXPERIENCE = 3
# Training brings most to those that lost most: narrow networks go from 20 points to one. So it is
# by ratios, and squared: a search whose first plans lost little would stop all that lose more.
OPTIMISM = 2.0
# Added to both drops of a ratio: below a point, what is left of a drop is chance.
CHANCE = 0.01


@dataclass(frozen=True)
class Rung:
    """A fidelity: a share of the full training, and whether fake quantization is part of it.

    The cheap facts come before the first rung, in ``worker``.
    """

    name: str
    share: float
    constrained: bool


RUNGS = (
    Rung("recalibrated", 0.0, False),
    Rung("short", 0.25, False),
    Rung("full", 1.0, True),
)
LAST = len(RUNGS) - 1
FULL_SHARE = sum(rung.share for rung in RUNGS)


def share_of(rung: int, from_scratch: bool) -> float:
    """What a job at ``rung`` trains, as a share of the full training's epochs.

    One that skips all rungs before the last trains as long as those that climbed them.
    """
    return FULL_SHARE if from_scratch and rung == LAST else RUNGS[rung].share


@dataclass(frozen=True)
class Seen:
    """What one plan showed at one rung."""

    drop: float
    latency_ms: float
    violation: float  # the sum of the positive violations


def seen(evaluation: Evaluation, violations: Mapping[str, float]) -> Seen:
    """The figures that decide, of an evaluation at a rung.

    A gain over the baseline counts as no drop: the search is for speed within a limit.
    """
    return Seen(
        max(evaluation.value("drop"), 0.0),
        evaluation.value("latency_ms"),
        sum(max(v, 0.0) for v in violations.values()),
    )


def goes_on(
    rung: int,
    plan_id: str,
    history: Sequence[Mapping[str, Seen]],
    front: Sequence[Seen],
    max_drop: float,
) -> bool:
    """Whether the plan goes on from ``rung`` to the next.

    Args:
        rung: where it is.
        plan_id: whose figures are in ``history[rung]`` already.
        history: for each rung, the figures of every plan seen there, by plan.
        front: the feasible front so far, of fully trained plans.
        max_drop: the limit of the drop.
    """
    here = history[rung]
    mine = here[plan_id]
    if len(here) < REDUCTION or _could_enter(mine, rung, history, front, max_drop):
        return True
    others = list(here.values())
    order = ranks([(s.drop, s.latency_ms) for s in others], [s.violation for s in others])
    mine_rank = order[list(here).index(plan_id)]
    better = sum(1 for rank in order if rank < mine_rank)
    return better < math.ceil(len(others) / REDUCTION)


def _could_enter(
    mine: Seen,
    rung: int,
    history: Sequence[Mapping[str, Seen]],
    front: Sequence[Seen],
    max_drop: float,
) -> bool:
    """With the best ratio so far, squared, would it be feasible and undominated?"""
    last = history[-1]
    ratios = [
        (last[plan].drop + CHANCE) / (here.drop + CHANCE)
        for plan, here in history[rung].items()
        if plan in last
    ]
    if len(ratios) < LEAST_EXPERIENCE:
        return True
    best = min(1.0, *ratios) ** OPTIMISM
    hoped = max(0.0, (mine.drop + CHANCE) * best - CHANCE)
    if hoped > max_drop:
        return False
    return not any(s.latency_ms <= mine.latency_ms and s.drop <= hoped for s in front)
