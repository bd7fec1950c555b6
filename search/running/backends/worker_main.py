"""A worker process on the driver's machine: takes jobs and gives outcomes over one pipe.

    python -P -m search.running.backends.worker_main DESCRIPTOR

Messages are JSON. The first names the function that makes the runner, and the argument for it;
each of the following is a job. Stages, the outcome and logged warnings go back. Standard input is
a pipe on which nothing ever comes: it closes when the driver ends, however that ends, and so does
this process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, NoReturn

from search.inputs.own_code import describe, import_function
from search.running.backends.pacing import Paced

Runner = Callable[[Any, Callable[[str, float | None], None]], Any]
TELL_EVERY_S = 0.2


def main() -> None:
    """Works until the driver closes the pipe."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    _work(Connection(descriptor))


def _work(connection: Connection) -> None:
    sending = threading.Lock()  # warnings come from other threads, too

    def tell(**message: Any) -> None:
        try:
            with sending:
                connection.send_bytes(json.dumps(message, allow_nan=False).encode())
        except OSError:  # the driver has gone
            sys.exit(1)

    logging.getLogger().addHandler(_Warnings(tell))
    order = json.loads(connection.recv_bytes())
    try:
        run: Runner = import_function(order["open"])(order["argument"])
    except Exception as error:  # of the person's own code, too: anything
        tell(unable=describe(error))
        return
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            return
        ticket = message["ticket"]
        try:
            told = partial(_stage, tell, ticket)
            outcome = run(message["job"], Paced(told, TELL_EVERY_S))
        except Exception as error:  # what the person's model raises becomes a failed trial
            tell(ticket=ticket, error=describe(error))
        else:
            tell(ticket=ticket, outcome=outcome)


def _stage(tell: Callable[..., None], ticket: int, stage: str, fraction: float | None) -> None:
    tell(ticket=ticket, stage=stage, fraction=fraction)


class _Warnings(logging.Handler):
    """Passes on what would be written over the driver's display."""

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(note=record.getMessage())


def _end_with_driver() -> NoReturn:
    os.read(0, 1)
    os._exit(1)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(1)  # gives temporary files and lent devices back


if __name__ == "__main__":
    main()
