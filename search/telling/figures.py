"""Where a figure of a result is found; None where it was not evaluated, never a zero."""

from __future__ import annotations

from evaluators import Evaluation, Measurement
from search.trial import Trial


def figures_of(trial: Trial, test: Evaluation | None = None) -> Evaluation:
    """All figures of a trial; those taken once the test split was open replace earlier ones."""
    figures = trial.evaluation or Evaluation({})
    return figures.merged(test) if test else figures


def find(figures: Evaluation, *names: str) -> Measurement | None:
    """The first of ``names`` that was evaluated."""
    return next((figures[name] for name in names if name in figures), None)


def value(figures: Evaluation, *names: str) -> float | None:
    """Its value."""
    found = find(figures, *names)
    return None if found is None else found.value
