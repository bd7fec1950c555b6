"""What a report shows when a search has found it out; no search has to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sensitivity:
    """How much each choice alone hurts, without training.

    ``rows`` holds, for each group or layer, one increase of the loss for each of ``choices``
    (such as ``−25 %`` or ``int8``), None where it was not tried. ``what`` is one sentence: which
    loss, on how many images, before or after recalibration.
    """

    choices: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    what: str

    @property
    def largest(self) -> float:
        """The largest increase of all."""
        return max((v for row in self.rows.values() for v in row if v is not None), default=0.0)


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
