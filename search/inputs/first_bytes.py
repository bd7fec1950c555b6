"""What the first bytes of a file tell of it, before it is read by a library that takes seconds."""

from __future__ import annotations

from pathlib import Path

from hardware_profiles.host import available_bytes
from hardware_profiles.regular_files import open_regular
from search.errors import InputError


def first_bytes(path: Path, what: str) -> bytes:
    """Up to eight bytes; ``what`` is what the file must be, such as ``weights must be a file``.

    Raises:
        InputError: there is no such file, or it can't be read.
    """
    try:
        if not path.is_file():
            raise InputError(f"{what}, but {str(path)!r} is none; check the path")
        with open_regular(path) as file:
            return file.read(8)
    except OSError as error:
        raise InputError(
            f"{what} that can be read, but {str(path)!r} is not ({error.strerror}); change its "
            f"permissions or copy it"
        ) from None


def check_size(stated_bytes: int, name: str) -> None:
    """Refuses what would not fit into memory once it is unpacked.

    Raises:
        InputError: it wouldn't; ``name`` is what it is called.
    """
    most_bytes = available_bytes() // 2
    if stated_bytes > most_bytes:
        raise InputError(
            f"what is unpacked must fit into half of the memory, {most_bytes / 1e9:.1f} GB, but "
            f"{name} would take {stated_bytes / 1e9:.1f} GB; give fewer or smaller images"
        )


def told(start: bytes) -> str:
    """What a file is whose first bytes are not what they should be."""
    return f"begins with {start!r}" if start else "is empty"
