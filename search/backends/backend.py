"""The seam between who decides and who runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from search.worker import Job, Outcome


@dataclass(frozen=True)
class Finished:
    """A job that came back: an outcome, or the error that it raised, as a sentence."""

    ticket: int
    outcome: Outcome | None
    error: str | None = None


class Backend(Protocol):
    """Runs jobs for one search. The driver calls it from one thread."""

    workers: int  # jobs that may run at a time

    def submit(self, ticket: int, job: Job) -> None:
        """Takes a job; never called with more than ``workers`` under way."""
        ...

    def next(self) -> Finished:
        """Waits for a job to come back. An interruption passes through."""
        ...

    def close(self) -> None:
        """Gives everything back; jobs under way are dropped."""
        ...
