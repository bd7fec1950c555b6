"""SHA-256 of every file of a folder, in a form that ``sha256sum -c`` reads too.

The last line, a comment to ``sha256sum``, is the digest of the lines before it: with it the
manifest vouches for itself, so that a changed byte of it is told from a changed file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

MANIFEST = "manifest.sha256"


def write_manifest(folder: Path) -> Path:
    """Writes ``folder/manifest.sha256`` over all files below ``folder``."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n"
        for p in files
    ]
    listed = "".join(lines).encode()
    path = folder / MANIFEST
    path.write_bytes(listed + f"# {hashlib.sha256(listed).hexdigest()}\n".encode())
    return path
