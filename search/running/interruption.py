"""Ctrl-C and SIGTERM: the first ends the search tidily, a second one at once.

    with caught():                  # around a command
        with held():                # around what must not be cut in two
            ...
        finishing()                 # from here on the first one is only remembered

Outside ``held`` and before ``finishing`` the first raises KeyboardInterrupt where it meets the
main thread, as Ctrl-C always does. Python lets no other thread handle signals: there ``caught``
leaves all as it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

EXIT_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


@dataclass
class _State:
    came: bool = False
    held: bool = False
    finishing: bool = False
    ends_process: bool = True


_state = _State()


@contextlib.contextmanager
def caught(ends_process: bool = True) -> Iterator[None]:
    """Handles both signals until the end of the block; one that the shell ignores stays so.

    A second one ends the process, or, where that is somebody else's, raises KeyboardInterrupt.
    """
    _state.came = _state.held = _state.finishing = False
    _state.ends_process = ends_process
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """An interruption that comes in the block is raised at its end."""
    came_before = _state.came
    _state.held = True
    try:
        yield
    finally:
        _state.held = False
    if _state.came and not came_before:
        raise KeyboardInterrupt


def finishing() -> None:
    """The search is at its end, which takes seconds: the first interruption changes nothing."""
    _state.finishing = True


def came() -> bool:
    """Whether the search was interrupted."""
    return _state.came


def _handle(_number: int, _frame: FrameType | None) -> None:
    if _state.came and not _state.ends_process:
        raise KeyboardInterrupt
    if _state.came:
        # Nothing is lost: trials are in the study, and a bundle is there as a whole or not.
        # Written past Python's own buffers, which may be in use at this very moment.
        os.write(2, _SHOW_CURSOR if os.isatty(2) else b"")
        os.write(2, b"search: interrupted twice; ended at once (--resume goes on)\n")
        os._exit(EXIT_INTERRUPTED)
    _state.came = True
    if not (_state.held or _state.finishing):
        raise KeyboardInterrupt
