"""An append-only file of JSON lines: the queue between the search and what sends its records.

It survives whatever ends the process. A line is there as a whole or not at all, and stays after
it was sent, so that everything can be sent again, to another store or after a store was lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Spool:
    """One file, one writer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Every record, oldest first; a line torn by a crash is cut off the file.

        Raises:
            OSError: the file can't be read or cut.
        """
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        return [json.loads(line) for line in content[:whole].splitlines()]

    def count(self, offset: int) -> int:
        """Records beyond an offset in bytes."""
        return self.path.read_bytes()[offset:].count(b"\n") if self.path.exists() else 0

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes all records and waits for the disk, or leaves the file as it was.

        Raises:
            OSError: the disk is full, or the folder can't be written.
        """
        lines = "".join(json.dumps(r, allow_nan=False) + "\n" for r in records).encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                written = 0
                while written < len(lines):
                    written += os.write(handle, lines[written:])
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)
