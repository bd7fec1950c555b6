"""Files that a person names, read only where they are files: a pipe or device may never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

SHOWN = 200  # characters of a path in a message
TEXT_BYTES = 2**24  # more than any profile, preprocessing or study has


def shortened(path: Path | str) -> str:
    """A path for a message of one line, its middle left out where it is very long."""
    text = str(path)
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]}…{text[-half:]}"


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading, without waiting for whatever else may lie there.

    Raises:
        OSError: it is missing, can't be read, or is no regular file; ``strerror`` says why.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, most_bytes: int = TEXT_BYTES) -> str:
    """The UTF-8 text of a regular file of at most so many bytes.

    Raises:
        OSError: it can't be read, is no regular file, or is too large.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(0, f"it is larger than {most_bytes:,} bytes", str(path))
    return content.decode("utf-8")
