"""Tune's view of the study: a searcher that suggests the jobs that the driver posts.

The driver asks the one study and tells it, with constraints and rungs; this only passes on.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.tune.search import Searcher

from search.running.backends.on_ray.board import FINISHED

WAIT_S = 0.1  # Tune's own loop stands still meanwhile


class JobSearcher(Searcher):  # type: ignore[misc]
    """One Tune trial a job. Wherever it runs, it talks to the board."""

    def __init__(self, board: Any) -> None:
        super().__init__(metric="told", mode="max")
        self._board = board
        self._tickets: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job's ticket as a configuration; None while there is none."""
        ticket = ray.get(self._board.next_ticket.remote(WAIT_S))
        if ticket == FINISHED:
            return str(Searcher.FINISHED)
        if ticket is None:
            return None
        self._tickets[trial_id] = ticket
        return {"ticket": ticket}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A worker tells its outcome itself; only one that died can't."""
        ticket = self._tickets.pop(trial_id)
        if error:
            ray.get(self._board.lose.remote(ticket))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth."""
