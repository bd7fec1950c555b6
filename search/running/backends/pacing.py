"""How often a worker tells how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable


class Paced:
    """Passes on stages as they begin, and how far they are at most every ``every_s`` seconds."""

    def __init__(self, tell: Callable[[str, float | None], None], every_s: float) -> None:
        self._tell = tell
        self._every_s = every_s
        self._stage: str | None = None
        self._told_at = 0.0

    def __call__(self, stage: str, fraction: float | None) -> None:
        now = time.monotonic()
        if stage != self._stage or now - self._told_at >= self._every_s:
            self._stage, self._told_at = stage, now
            self._tell(stage, fraction)
