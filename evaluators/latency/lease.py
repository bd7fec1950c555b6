"""One measurement at a time on this machine, and no training of ours beside it.

A measurement holds the machine exclusively; trainers share it, batch by batch:

    with lease.training():                       # around a training loop
        for batch in loader:
            lease.yield_to_measurements()        # waits while somebody measures
            ...

    with lease.measuring():                      # around a measurement
        ...

Both are ``flock`` locks on files, so the kernel takes them from a process that dies, however
it dies. All processes of one user on one machine take part, whatever search they belong to.

Two files keep trainers from starving the measurement. Who wants to measure takes ``gate``
exclusively and then waits for ``floor``; a trainer lets go of ``floor`` between batches and
has to pass ``gate`` to get it back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

log = logging.getLogger(__name__)

TELL_S = 5.0  # after so long it is said for whom a measurement waits


class LeaseError(RuntimeError):
    """The lock files can't be used safely; the message says what to remove."""


def lease_folder() -> Path:
    """The folder of the lock files: of this machine and user, since locks are, too.

    Everybody may write to its parent, so that somebody else's folder, or a link, is refused.

    Raises:
        LeaseError: it is not a folder of this user's alone.
    """
    folder = Path(tempfile.gettempdir()) / f"compression-search-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    is_own = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
    # What others could write to may hold what they laid there, and is not made right by a chmod.
    if not is_own or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LeaseError(
            f"{folder} must be a folder that only its owner, you, can write to, but is not; "
            f"remove it, or set TMPDIR to a folder of your own"
        )
    return folder


class _LockFile:
    """One open lock file. Forked children (data loaders) don't inherit the lock."""

    _all: ClassVar[weakref.WeakSet[_LockFile]] = weakref.WeakSet()

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self.descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise LeaseError(
                f"{path} must be a lock file of this project, but is not "
                f"({error.strerror}); remove it"
            ) from None
        self._all.add(self)

    def lock(self, kind: int) -> None:
        fcntl.flock(self.descriptor, kind)

    def try_lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._all.discard(self)
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @classmethod
    def forget_all(cls) -> None:
        """In a forked child: a copied descriptor would keep the lock when the parent dies."""
        for file in list(cls._all):
            file.close()


os.register_at_fork(after_in_child=_LockFile.forget_all)


class _Trainer(threading.local):
    """The files that this thread's training holds, if it trains."""

    gate: _LockFile | None = None
    floor: _LockFile | None = None


_trainer = _Trainer()


@contextlib.contextmanager
def training() -> Iterator[None]:
    """This thread trains: measurements wait for the batch it is in, no longer."""
    if _trainer.floor is not None:
        raise RuntimeError("training() must not be nested in one thread; enter it once a loop")
    folder = lease_folder()
    _trainer.gate, _trainer.floor = _LockFile(folder / "gate"), _LockFile(folder / "floor")
    try:
        _enter_floor()
        yield
    finally:
        for file in (_trainer.floor, _trainer.gate):
            file.close()
        _trainer.gate = _trainer.floor = None


def yield_to_measurements() -> None:
    """Between batches: waits while a measurement is under way or wants to begin (4 µs if not).

    Raises:
        RuntimeError: this thread is not in ``training()``.
    """
    if _trainer.floor is None:
        raise RuntimeError("yield_to_measurements() must be called inside `with training():`")
    _trainer.floor.lock(fcntl.LOCK_UN)
    _enter_floor()


def _enter_floor() -> None:
    assert _trainer.gate is not None
    assert _trainer.floor is not None
    _trainer.gate.lock(fcntl.LOCK_SH)
    _trainer.floor.lock(fcntl.LOCK_SH)
    _trainer.gate.lock(fcntl.LOCK_UN)


@contextlib.contextmanager
def measuring(what: str = "a measurement") -> Iterator[None]:
    """The machine for this measurement alone; says who has it when it has to wait.

    May be entered inside ``training()`` of the same thread, whose share is given up meanwhile.
    """
    if _trainer.floor is not None:
        _trainer.floor.lock(fcntl.LOCK_UN)
    folder = lease_folder()
    gate, floor = _LockFile(folder / "gate"), _LockFile(folder / "floor")
    try:
        _take(gate, "another measurement", what)
        # The gate's content names its holder; trainers need no name, they leave within a batch.
        os.ftruncate(gate.descriptor, 0)
        os.pwrite(gate.descriptor, f"process {os.getpid()} ({_command()})".encode(), 0)
        _take(floor, "the running training batches", what)
        yield
    finally:
        floor.close()
        gate.close()
        if _trainer.floor is not None:
            _enter_floor()


def _take(file: _LockFile, whom: str, what: str) -> None:
    if file.try_lock(fcntl.LOCK_EX):
        return
    holder = os.pread(file.descriptor, 1000, 0).decode(errors="replace")
    told = ("%s waits for %s%s", what, whom, f" of {holder}" if holder else "")
    log.info(*told)
    # Turns of seconds are as it should be; only what takes longer is the person's business.
    timer = threading.Timer(TELL_S, log.warning, told)
    timer.daemon = True
    timer.start()
    try:
        file.lock(fcntl.LOCK_EX)
    finally:
        timer.cancel()


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
