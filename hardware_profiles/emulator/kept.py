"""Counts of files that were counted before, by content: a file has one figure on a machine.

The few lines that the runtime's own bookkeeping misses are not always the same ones. Nothing else
differs from count to count, but a search that repeats to the last digit must not see even that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from hardware_profiles.emulator.installation import Installation
from hardware_profiles.emulator.session import Counted, KernelCounts

KEPT_FILES = 2000  # about 50 KB each; the oldest go first
_CODE = ("counts.c", "guest.py", "session.py")
log = logging.getLogger(__name__)


def kept(setup: Installation, core: str, model: Path, count: Callable[[], Counted]) -> Counted:
    """What was counted for a file with this content on this core, or else what ``count`` counts.

    Raises:
        EmulatorError: as ``count``.
    """
    parts = [model.read_bytes(), core.encode(), json.dumps(dict(setup.versions())).encode()]
    parts += [(Path(__file__).parent / name).read_bytes() for name in _CODE]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    path = setup.folder.parent / "counts" / f"{digest.hexdigest()}.json"
    known = _read(path)
    if known is not None:
        return known
    counted = count()
    try:
        _write(path, counted)
    except OSError as error:  # a full disk, or a folder of somebody else's
        log.info("counts are not kept: %s", error)
    return counted


def _read(path: Path) -> Counted | None:
    try:
        found = json.loads(path.read_text())
        return Counted(found["total"], tuple(KernelCounts(**each) for each in found["kernels"]))
    except (OSError, ValueError, KeyError, TypeError):  # not there, or half written: counted anew
        return None


def _write(path: Path, counted: Counted) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(dataclasses.asdict(counted)))
    partial.rename(path)
    files = sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)
    for old in files[:-KEPT_FILES]:
        old.unlink(missing_ok=True)
