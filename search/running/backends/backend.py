"""The seam between who decides and who runs.

Worker processes import this package before they know what they are for: nothing heavy here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hardware_profiles import HardwareProfile
    from search.training.job import Job, Outcome, Workbench

ENTRY_POINTS = "compression_search.backends"
Listen = Callable[[int, str, float | None], None]  # ticket, stage, fraction of it


@dataclass(frozen=True)
class Finished:
    """A job that came back: an outcome, or the error that it raised, as a sentence."""

    ticket: int
    outcome: Outcome | None
    error: str | None = None


@dataclass(frozen=True)
class Resources:
    """What trials may use. None for ``cpus_per_trial``: an equal share of the machine.

    ``gpus_per_trial`` may be a part of one; None: a share of the GPUs that there are.
    ``address`` is a cluster's.
    """

    workers: int = 1
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    address: str | None = None


class Backend(Protocol):
    """Runs jobs for one search. The driver calls it from one thread."""

    workers: int  # jobs that may run at a time

    def submit(self, ticket: int, job: Job) -> None:
        """Takes a job; never called with more than ``workers`` under way."""
        ...

    def next(self) -> Finished:
        """Waits for a job to come back.

        Tells the listener, in this thread and at least every second or two while jobs run
        elsewhere, how far they are; what the listener raises passes through, and so does an
        interruption.

        Raises:
            SearchError: there is no way to run jobs any more.
        """
        ...

    def close(self) -> None:
        """Gives everything back; jobs under way are dropped. May be called twice."""
        ...


class BackendKind(Protocol):
    """A kind of backend: one module of this package (or an entry point) has one as ``BACKEND``."""

    name: str  # what ``--backend`` takes

    def check(self, resources: Resources, profile: HardwareProfile, device: str | None) -> None:
        """Looks whether it can be used like this, for this target, before anything is begun.

        Raises:
            InputError: a package is missing, or an option makes no sense.
        """
        ...

    def start(
        self,
        bench: Workbench,
        resources: Resources,
        listen: Listen,
        note: Callable[[str], None],
    ) -> Backend:
        """A backend for one search on this bench; ``note`` takes sentences for the person."""
        ...
