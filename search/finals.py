"""Finalists are trained again with other seeds, where that may change who wins.

Figures on the validation split are within noise of the limit when the limit lies between the
drop and its one-sided bound, or when the drop exceeds the limit by less than that distance. A
plan that is faster than all that are safe, and within that noise, may win or lose by its seed
alone; so it gets another one, and what is better on validation stands. The test split has no
say in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from search.rungs import LAST, RUNGS
from search.trial import Trial

FINALISTS = 3
TRAININGS = 3  # of one plan, the first included
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

    Plans that are faster than the fastest safe one (whose bound on validation is within the
    limit), and within noise of the limit; and the safe one itself when it never had the full
    training. Those with the fewest trainings come first, then those nearest to the limit or
    within it, then the fastest. Of a plan that breaks another limit than the drop no training
    makes a winner.
    """
    found: list[tuple[tuple[int, float, float], Trial]] = []
    for trial in sorted(filter(_may_win, trials), key=_latency):
        noise, excess = _bound(trial) - _drop(trial), max(_drop(trial) - max_drop, 0.0)
        if excess > noise:
            continue
        safe = _bound(trial) <= max_drop
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
