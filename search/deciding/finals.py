"""Finalists are trained again, longer and with other seeds, where that may change who wins.

The noise of a plan is the distance from its drop on the validation split to the one-sided bound.
A plan is safe when the limit is at least twice that away: the test split adds noise of its own,
so that of plans whose bound just holds on one split every second fails on another as large, but
of those twice as far away only one in eight. A plan that is faster than all safe ones, and
exceeds the limit by no more than its noise, may win or lose by its training; so it gets another
one, and what is better on validation stands. The test split has no say in that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from search.deciding.rungs import LAST, RUNGS
from search.trial import Trial

FINALISTS = 3
TRAININGS = 3  # of one plan, the first included
FINAL_SHARE = 3.0  # of the full training's epochs; docs/search.md has what that brings
MOST_AGAIN = 6  # trainings in one search that are not a plan's first


def best_training(trainings: Sequence[Trial]) -> Trial:
    """Of several trainings of a plan, first to last, the best on validation; of equals the first.

    It has the stages of all of them together, and their ``drops``.
    """
    first = trainings[0]
    if len(trainings) == 1:
        return first
    best = min(trainings, key=lambda t: (not t.feasible, _drop(t), _bound(t)))
    stages: dict[str, float] = {}
    for each in trainings:
        for stage, spent_s in each.stages.items():
            stages[stage] = stages.get(stage, 0.0) + spent_s
    drops = tuple(_drop(each) for each in trainings)
    return replace(best, stages=stages, seen=first.seen, drops=drops)


def finalists(trials: Sequence[Trial], max_drop: float) -> tuple[Trial, ...]:
    """Whom to train again, the next one first, at most ``FINALISTS``.

    Args:
        trials: finished, each with the best of its trainings.
        max_drop: the limit of the drop.

    Plans that are faster than the fastest safe one and within noise of the limit; and the safe
    one itself when it never had the full training. The untouched model is safe. Those with the
    fewest trainings come first, then those nearest to the limit or within it, then the fastest.
    Of a plan that breaks another limit than the drop no training makes a winner.
    """
    found: list[tuple[tuple[int, float, float], Trial]] = []
    untouched = (_latency(t) for t in trials if t.feasible and not t.plan.settings)
    untouched_ms = min(untouched, default=math.inf)
    faster = (t for t in trials if _may_win(t) and _latency(t) < untouched_ms)
    for trial in sorted(faster, key=_latency):
        noise, excess = _bound(trial) - _drop(trial), max(_drop(trial) - max_drop, 0.0)
        if excess > noise:
            continue
        safe = _drop(trial) + 2 * noise <= max_drop
        times = max(1, len(trial.drops))
        short = times == 1 and trial.rung != RUNGS[LAST].name
        if short or (not safe and times < TRAININGS):
            found.append(((times, excess / noise if excess else 0.0, _latency(trial)), trial))
        if safe:
            break
    return tuple(trial for _, trial in sorted(found, key=lambda item: item[0])[:FINALISTS])


def _may_win(trial: Trial) -> bool:
    """Completed and compressed, its drop evaluated, and no other limit broken."""
    return (
        trial.state == "complete"
        and bool(trial.plan.settings)
        and trial.evaluation is not None
        and "drop_bound" in trial.evaluation
        and all(v <= 0 for name, v in trial.violations.items() if name != "drop")
    )


def _drop(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.value("drop")


def _bound(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.value("drop_bound")


def _latency(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.value("latency_ms")
