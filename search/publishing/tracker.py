"""The seam: a tracker is told what was found, and never stands in the way of finding it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from search.result import SearchResult
from search.trial import Trial


class Tracker(Protocol):
    """Called by the driver alone, from one thread. Raises nothing about the store it writes to."""

    def trial(self, trial: Trial) -> None:
        """Takes one finished trial; one whose number it has had before is ignored.

        A resumed search may therefore hand over every trial it knows.
        """
        ...

    def finish(
        self, result: SearchResult, report: Path | None = None, bundle: Path | None = None
    ) -> None:
        """Takes the end of the search: the report (a file) and the bundle (a folder)."""
        ...

    def close(self) -> None:
        """Waits, within bounds, until everything has arrived. May be called twice."""
        ...


class NullTracker:
    """Keeps nothing."""

    def trial(self, trial: Trial) -> None:
        """Does nothing."""

    def finish(
        self, result: SearchResult, report: Path | None = None, bundle: Path | None = None
    ) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
