"""Locks between processes that the system takes back from one that dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def locked(path: Path, wait: bool = True, shared: bool = False) -> Iterator[TextIO]:
    """Holds the lock of a file, made where it is missing, and gives the file for what it says.

    Raises:
        BlockingIOError: another process holds it, and this one was not to ``wait``.
        OSError: the file can't be made or opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
        yield lock
    # Closing the file gives the lock back.
