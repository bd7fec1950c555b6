"""What an evaluation says: values with a unit, a spread, and where each came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

EVALUATION_VERSION = 2
_READ = (1, EVALUATION_VERSION)  # version 1 did not say what is repeatable
Source = Literal["measured", "estimated", "exact"]


@dataclass(frozen=True)
class Measurement:
    """One figure about one exported file.

    ``name`` ends in its unit where it has one (``latency_ms``, ``size_bytes``). ``exact`` is what
    was counted in the file itself: another look gives the same. ``low`` and
    ``high`` bound the figure where that is known: a confidence interval for what was measured,
    the held-out error for what was estimated. ``how`` is one sentence with runtime and version,
    threads and device (or profile), enough to repeat it. ``detail`` is JSON; where ``how`` ends in
    a long account of the error, that is its ``error_how`` too. ``repeatable`` promises that the
    same file has the same figure at any other moment, so that one that is kept will do; what a
    clock or a sensor says is not, and what says nothing of it is not taken to be.
    """

    name: str
    value: float
    unit: str
    source: Source
    how: str
    low: float | None = None
    high: float | None = None
    detail: Mapping[str, Any] | None = None
    repeatable: bool = False


@dataclass(frozen=True)
class Evaluation:
    """All figures about one exported file, by name."""

    measurements: Mapping[str, Measurement]

    @classmethod
    def of(cls, measurements: Iterable[Measurement]) -> Evaluation:
        """Collects measurements; a later one of the same name replaces an earlier one."""
        return cls({m.name: m for m in measurements})

    def __getitem__(self, name: str) -> Measurement:
        return self.measurements[name]

    def __contains__(self, name: object) -> bool:
        return name in self.measurements

    def value(self, name: str) -> float:
        """The figure called ``name``.

        Raises:
            KeyError: it was not evaluated.
        """
        return self.measurements[name].value

    def merged(self, other: Evaluation) -> Evaluation:
        """Both; what ``other`` has wins."""
        return Evaluation({**self.measurements, **other.measurements})

    def to_json(self) -> dict[str, Any]:
        """A versioned JSON object; ``from_json`` gives an equal evaluation back."""
        return {
            "version": EVALUATION_VERSION,
            "measurements": [asdict(m) for m in self.measurements.values()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """The evaluation that ``to_json`` wrote, of this version or the one before.

        Raises:
            ValueError: another version.
        """
        if data.get("version") not in _READ:
            raise ValueError(
                f"an evaluation's version must be one of {_READ}, "
                f"but got {data.get('version')!r}; evaluate again"
            )
        return cls.of(Measurement(**m) for m in data["measurements"])
