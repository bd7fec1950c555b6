"""Whether a failure is the disk's fault rather than a trial's."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

LEAST_FREE_BYTES = 50_000_000  # an export and a checkpoint of a large network
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def is_of_disk(message: str) -> bool:
    """Whether an exception says that some disk was full or read-only just then.

    That may have been another node's, or have ended with the job that filled it.
    """
    return any(os.strerror(code) in message for code in _FULL)


def disk_trouble(folder: Path) -> str | None:
    """Why nothing can be written to a folder, as a sentence; None when it can."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        free = shutil.disk_usage(folder).free
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno not in _TROUBLE:
            return None
        return f"{folder} must be writable, but is not: {error.strerror}"
    if free < LEAST_FREE_BYTES:
        return (
            f"the disk of {folder} must have {LEAST_FREE_BYTES / 1e6:.0f} MB free, but has "
            f"{free / 1e6:.1f} MB"
        )
    return None
