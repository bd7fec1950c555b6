"""The fastest file that a search has measured, kept to run beside the next ones.

Small candidates need a companion of their size: what slows one slows the other as much. All
processes of a search share it, through its scratch folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles import atomic
from hardware_profiles.devices.device import file_sha256

SIMILAR = 3.0  # a file within this factor of the candidate's latency is of its size


def similar(model_ms: float, incumbent_ms: float) -> bool:
    """Whether one says something about what the other suffers."""
    return 1 / SIMILAR <= model_ms / incumbent_ms <= SIMILAR


@dataclass(frozen=True)
class Incumbent:
    """A file of this search's own, and the least that it took."""

    path: Path
    best_ms: float


class IncumbentStore:
    """One small JSON file in the scratch folder, and copies of the files that it has named.

    Copies stay for the search's life, since another process may be measuring beside one. The
    fastest file changes seldom: of n files in any order, about ln n times.
    """

    def __init__(self, scratch: Path, machine: Sequence[str | int]) -> None:
        """Keeps it in ``scratch``, for measurements on the ``machine`` with this description."""
        key = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
        self._folder = scratch
        self._path = scratch / f"latency-incumbent-{key}.json"

    def load(self) -> Incumbent | None:
        """The fastest file so far; None at the beginning."""
        if not self._path.exists():
            return None
        found = json.loads(self._path.read_text())
        return Incumbent(self._folder / found["file"], float(found["best_ms"]))

    def update(self, model: Path, model_ms: float, incumbent_best_ms: float | None) -> None:
        """Remembers ``model`` where it is the fastest, or that the incumbent was faster yet.

        Args:
            model: the file that was measured; it is copied where it is the fastest.
            model_ms: its latency.
            incumbent_best_ms: what the incumbent took at best; None where it did not run.
        """
        known = self.load()
        if known is not None and known.best_ms <= model_ms:
            if incumbent_best_ms is not None and incumbent_best_ms < known.best_ms:
                self._write(known.path.name, incumbent_best_ms)
            return
        name = f"latency-{file_sha256(model)[:16]}.onnx"
        if not (self._folder / name).exists():
            with atomic.replacing(self._folder / name) as part:
                shutil.copyfile(model, part)
        self._write(name, model_ms)

    def _write(self, file: str, best_ms: float) -> None:
        atomic.write_text(self._path, json.dumps({"file": file, "best_ms": best_ms}))
