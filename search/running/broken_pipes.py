"""Standard output and error as pipes whose reader may leave early (``| head``)."""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
from typing import Any, TextIO


class _Pipe(io.FileIO):
    """Once nobody reads any more, what is written goes nowhere, and the search is interrupted.

    As Ctrl-C would: nothing is lost, and nobody waits for what they don't see.
    """

    def __init__(self, descriptor: int, ends: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._ends = ends

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self._ends:
                signal.raise_signal(signal.SIGINT)
            return super().write(content)


def outlive_readers() -> None:
    """Sees to it that a reader that leaves never ends in a traceback, here or at Python's end."""
    sys.stdout = _outliving(sys.stdout, ends=False)
    sys.stderr = _outliving(sys.stderr, ends=True)


def _outliving(stream: TextIO, ends: bool) -> TextIO:
    """The same where it is no pipe."""
    if not stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.flush()
    pipe = io.BufferedWriter(_Pipe(stream.fileno(), ends))
    return io.TextIOWrapper(pipe, stream.encoding, stream.errors, line_buffering=ends)
