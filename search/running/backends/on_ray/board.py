"""The notice board between the driver, Tune's searcher and the workers: one actor.

The driver posts jobs, the searcher hands their tickets to Tune, a worker fetches the job of its
ticket and tells how it goes. A ticket whose worker died is handed out again: Tune itself tries
only those again that were running, not those that it was about to start on a worker just dead.
The actor lives on the driver's node and ends with the driver.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import ray

FINISHED = -1  # in place of a ticket: no more jobs will come
ATTEMPTS = 2  # of a job whose worker dies while it runs
LOSSES = 8  # of a job, before any worker has begun with it


@dataclass(frozen=True)
class Posted:
    """A job, as JSON, and the content of the files that it names."""

    job: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Told:
    """What a worker or the searcher said about a ticket.

    ``kind`` is ``again`` (its worker died, another one begins), ``stage``, ``outcome`` or
    ``error``; or, of no ticket, ``note`` or ``unable`` (a worker can't work at all).
    """

    kind: str
    ticket: int | None
    content: Any = None
    files: dict[str, bytes] | None = None


@ray.remote(num_cpus=0)
class Board:
    """Keeps jobs until they are finished, and events until the driver has heard them."""

    def __init__(self) -> None:
        self._jobs: dict[int, Posted] = {}
        self._begun: Counter[int] = Counter()
        self._lost: Counter[int] = Counter()
        self._waiting: deque[int] = deque()
        self._told: deque[Told] = deque()
        self._news = asyncio.Event()  # for the searcher
        self._heard = asyncio.Event()  # for the driver

    async def post(self, ticket: int, posted: Posted) -> None:
        """The driver's: a job to be done."""
        self._jobs[ticket] = posted
        self._waiting.append(ticket)
        self._news.set()

    async def finish(self) -> None:
        """The driver's: no more jobs."""
        self._waiting.append(FINISHED)
        self._news.set()

    async def hear(self, wait_s: float) -> list[Told]:
        """The driver's: what was told; waits for something at most so long."""
        if not self._told:
            await _wait(self._heard, wait_s)
        self._heard.clear()
        told = list(self._told)
        self._told.clear()
        return told

    async def next_ticket(self, wait_s: float) -> int | None:
        """The searcher's: a job that nobody has; waits for one at most so long."""
        if not self._waiting:
            await _wait(self._news, wait_s)
        self._news.clear()
        return self._waiting.popleft() if self._waiting else None

    async def fetch(self, ticket: int) -> Posted | None:
        """The worker's: its job; None when one that died since has finished it."""
        if ticket not in self._jobs:
            return None
        if self._begun[ticket]:
            await self.tell(Told("again", ticket))
        self._begun[ticket] += 1
        return self._jobs[ticket]

    async def lose(self, ticket: int) -> None:
        """The searcher's: the worker that had the ticket, or was to get it, is dead."""
        if ticket not in self._jobs:
            return
        self._lost[ticket] += 1
        if self._begun[ticket] < ATTEMPTS and self._lost[ticket] < LOSSES:
            self._waiting.append(ticket)
            self._news.set()
        else:
            told = "its worker ended twice; Ray's logs say why (out of memory?)"
            await self.tell(Told("error", ticket, told))

    async def tell(self, told: Told) -> None:
        """Anybody's."""
        if told.kind in ("outcome", "error"):
            assert told.ticket is not None
            if self._jobs.pop(told.ticket, None) is None:
                return  # of a worker that was taken for dead
        self._told.append(told)
        self._heard.set()


async def _wait(event: asyncio.Event, wait_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), wait_s)
    except TimeoutError:
        return
