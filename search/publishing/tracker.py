"""The seam: a tracker learns when there is something to publish, and never stands in its way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from search.result import SearchResult
from search.task import DataSet
from search.trial import Trial

if TYPE_CHECKING:
    from search.deciding.study import Study


class Tracker(Protocol):
    """Called by the driver alone, from one thread. Raises nothing about the store it writes to."""

    def begin(self, study: Study, data: DataSet) -> None:
        """The study is open, with the trials that it had before; called once, first."""
        ...

    def trial(self, trial: Trial) -> None:
        """One more trial is in the study's storage."""
        ...

    def finish(
        self, result: SearchResult, report: Path | None = None, bundle: Path | None = None
    ) -> None:
        """Takes the end of the search: the report (a file) and the bundle (a folder)."""
        ...

    def close(self) -> None:
        """Waits, within bounds, until everything is published. May be called twice."""
        ...


class NullTracker:
    """Publishes nothing."""

    def begin(self, study: Study, data: DataSet) -> None:
        """Does nothing."""

    def trial(self, trial: Trial) -> None:
        """Does nothing."""

    def finish(
        self, result: SearchResult, report: Path | None = None, bundle: Path | None = None
    ) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
