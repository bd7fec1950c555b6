"""The process beside a search that publishes its study as it grows.

Apart from the search, so that neither MLflow's import, its memory and its threads nor a store
that hangs ever takes time from a trial, and so that its settings and its talk stay out of the
person's process. The storage, the store and credentials are in its environment.

It looks when the search writes a byte to its standard input, writes one JSON line per event to
standard output (``away``, ``back``, ``remedy``, ``refused``, ``registered``), and ends when the
search has closed that input and all is published, or the store does not answer.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import TextIO

import optuna
from sqlalchemy.exc import SQLAlchemyError

from search.errors import SearchError
from search.masked_stream import masking
from search.publishing.machine import Machine
from search.publishing.outcomes import NotPublishedError, TellPersonError
from search.publishing.publish import STORAGE, Published, Publisher, Source

LONGEST_PAUSE_S = 30.0
LOOK_EVERY_S = 5.0  # also without being told, for figures of the machine
EXIT_UNPUBLISHED = 3


class Events:
    """What the search is told: away and back once each time, all else once."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._away = False

    def emit(self, event: str, **details: str) -> None:
        """Writes one line."""
        print(json.dumps({"event": event, **details}), file=self._out, flush=True)

    def published(self, done: Published) -> None:
        """The store took what there was."""
        for refused in done.refused:
            self.emit("refused", what=refused)
        for name, alias in done.registered:
            self.emit("registered", name=name, alias=alias)
        if self._away:
            self._away = False
            self.emit("back")

    def failed(self, error: Exception) -> None:
        """The store took nothing more."""
        if not self._away:
            self._away = True
            kind = "remedy" if isinstance(error, TellPersonError) else "away"
            self.emit(kind, why=str(error))


def follow(folder: Path, events: Events, search_pid: int) -> int:
    """Publishes until the search is over; the exit code."""
    publisher: Publisher | None = None
    machine = Machine()
    pause_s, is_over = LOOK_EVERY_S, False
    while True:
        try:
            if publisher is None:
                publisher = Publisher(folder, Source(folder, os.environ.get(STORAGE)))
            done = publisher.publish(is_running=not is_over)
            if not is_over:
                machine.publish(publisher)
            events.published(done)
            pause_s = LOOK_EVERY_S
        except (NotPublishedError, SearchError, SQLAlchemyError, OSError) as error:
            unpublished: Exception | None = error
        except optuna.exceptions.StorageInternalError as error:
            unpublished = error
        else:
            unpublished = None
        if unpublished is not None:
            if isinstance(unpublished, NotPublishedError):
                events.failed(unpublished)  # of the study's storage the search itself tells
            print(f"{type(unpublished).__name__}: {unpublished}", file=sys.stderr)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if is_over:
            return 0 if unpublished is None else EXIT_UNPUBLISHED
        is_over = _wait(search_pid, pause_s, may_be_woken=unpublished is None)


def _wait(search_pid: int, wait_s: float, *, may_be_woken: bool) -> bool:
    """Waits until there is something to look at; True as soon as the search is over.

    A search that was killed is noticed even where processes that it forked keep the pipe open.
    """
    give_up = time.monotonic() + wait_s
    while (left_s := give_up - time.monotonic()) > 0:
        readable, _, _ = select.select([sys.stdin], [], [], min(left_s, 1.0))
        if readable and not os.read(sys.stdin.fileno(), 65536):
            return True
        if os.getppid() != search_pid:
            return True
        if readable and may_be_woken:
            return False
    return False


def main() -> int:
    """Follows the study in the folder that the command line names."""
    folder, search_pid = Path(sys.argv[1]), int(sys.argv[2])
    events = Events(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # MLflow talks on standard output
    os.nice(10)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with masking(()):  # the addresses are in the environment
        return follow(folder, events, search_pid)


if __name__ == "__main__":
    sys.exit(main())
