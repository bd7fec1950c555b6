"""Runs one job at a time in the driver's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from search.inputs.own_code import describe
from search.running.backends.backend import Finished
from search.running.clock import OutOfTimeError

if TYPE_CHECKING:
    from search.training.job import Job, Outcome

    Runner = Callable[[int, Job], Outcome]


class InlineBackend:
    """``submit`` keeps the job, ``next`` runs it. Anything with a ``runner`` can be tested."""

    workers = 1

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._waiting: list[tuple[int, Job]] = []

    def submit(self, ticket: int, job: Job) -> None:
        """Keeps the job until ``next``."""
        self._waiting.append((ticket, job))

    def next(self) -> Finished:
        """Runs the oldest job. What the person's model raises becomes a failed trial."""
        ticket, job = self._waiting.pop(0)
        try:
            return Finished(ticket, self._runner(ticket, job))
        except OutOfTimeError:
            raise  # not the trial's fault, and the end of the search
        except Exception as error:
            return Finished(ticket, None, describe(error))

    def close(self) -> None:
        """Nothing is held."""
        self._waiting.clear()
