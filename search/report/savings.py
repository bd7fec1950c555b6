"""What each of the winner's choices buys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Saving:
    """One of the winner's choices, found by reverting it alone.

    Reverting it costs ``saves_ms`` and ``saves_bytes`` and gives ``costs`` of the metric back;
    None where that was not evaluated.
    """

    choice: str
    saves_ms: float | None
    saves_bytes: float | None
    costs: float | None
