"""Answers jobs that an earlier search has run; all others go to the backend behind.

Only the driver's process looks here, so that it is the same for every backend. What another
moment may say otherwise (by the word of each figure: ``Measurement.repeatable``) is never answered
from before: such a job keeps its exported file, and that is evaluated again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search.running.backends.backend import Backend, Finished

if TYPE_CHECKING:
    from evaluators import Evaluation
    from search.running.cache import EvaluationCache
    from search.training.job import Job, Outcome, Workbench

STAGE = "cached"


@dataclass(frozen=True)
class _Passed:
    """A job that went on: under which key its outcome is kept, or what was kept of it."""

    key: str
    kept: Outcome | None = None
    looked_s: float = 0.0


class CachedBackend:
    """A backend with the outcomes of earlier searches before it."""

    def __init__(
        self,
        behind: Backend,
        cache: EvaluationCache,
        key_of: Callable[[Job], str],
        bench: Workbench,
    ) -> None:
        self.workers = behind.workers
        self._behind = behind
        self._cache = cache
        self._key_of = key_of
        self._bench = bench
        self._ready: deque[Finished] = deque()
        self._passed: dict[int, _Passed] = {}

    def submit(self, ticket: int, job: Job) -> None:
        """Looks for the job's outcome, and passes on what was never run."""
        begun = time.perf_counter()
        key = self._key_of(job)
        try:
            kept = self._cache.get(key, self._bench.folder / job.folder)
        except OSError:
            kept = None  # a full disk; the job itself meets it, too, and waits for its end
        spent_s = time.perf_counter() - begun
        if kept is None or (not is_repeatable(kept.evaluation) and kept.model is None):
            self._passed[ticket] = _Passed(key)
            self._behind.submit(ticket, job)
        elif not is_repeatable(kept.evaluation):
            self._passed[ticket] = _Passed(key, kept, spent_s)
            self._behind.submit(ticket, replace(job, exported=kept.model))
        else:
            violations = self._bench.limits.violations(
                kept.evaluation, self._bench.context.profile
            )
            answer = replace(kept, violations=violations, stages={STAGE: spent_s})
            self._ready.append(Finished(ticket, answer))

    def next(self) -> Finished:
        """What is known at once comes first."""
        if self._ready:
            return self._ready.popleft()
        finished = self._behind.next()
        passed = self._passed.pop(finished.ticket)
        outcome = finished.outcome
        if outcome is None:
            return finished
        if passed.kept is not None:
            stages = {STAGE: passed.looked_s, **outcome.stages}
            checkpoint = passed.kept.checkpoint
            again = replace(outcome, stages=stages, checkpoint=checkpoint)
            return replace(finished, outcome=again)
        if not has_stopgap(outcome.evaluation):
            self._cache.put(passed.key, outcome)
        return finished

    def close(self) -> None:
        """Closes the backend behind."""
        self._ready.clear()
        self._passed.clear()
        self._behind.close()


def is_repeatable(evaluation: Evaluation) -> bool:
    """Whether another moment would give the same figures, all of them."""
    return all(m.repeatable for m in evaluation.measurements.values())


def has_stopgap(evaluation: Evaluation) -> bool:
    """Whether some figure is not from where it should be, but what had to do instead."""
    details = (m.detail or {} for m in evaluation.measurements.values())
    return any(name.startswith("instead_of") for detail in details for name in detail)
