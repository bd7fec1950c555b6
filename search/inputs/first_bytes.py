"""What the first bytes of a file tell of it, before it is read by a library that takes seconds."""

from __future__ import annotations

from pathlib import Path

from search.errors import InputError


def first_bytes(path: Path, what: str) -> bytes:
    """Up to eight bytes; ``what`` is what the file must be, such as ``weights must be a file``.

    Raises:
        InputError: there is no such file, or it can't be read.
    """
    if not path.is_file():
        raise InputError(f"{what}, but {str(path)!r} is none; check the path")
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise InputError(
            f"{what} that can be read, but {str(path)!r} is not ({error.strerror}); change its "
            f"permissions or copy it"
        ) from None


def told(start: bytes) -> str:
    """What a file is whose first bytes are not what they should be."""
    return f"begins with {start!r}" if start else "is empty"
