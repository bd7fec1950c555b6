"""One trial: what was tried, what it is worth, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evaluators import Evaluation
from search.deciding.rungs import Seen
from spaces import CompressionPlan

State = Literal["complete", "rejected", "failed"]


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    ``origin`` says who proposed the plan: ``baseline:fp32``, ``baseline:int8``,
    ``baseline:uniform-50-int8``…, ``warm``, or ``sampler:tpe``…  ``violations`` holds, for each
    stated limit, by how much it is exceeded relative to the limit (negative or zero when it is
    met). ``reason`` is one sentence for a rejected or failed trial. ``stages`` are the seconds
    spent by stage. ``model`` is the exported file, relative to the study's folder.
    """

    number: int
    plan: CompressionPlan
    state: State
    origin: str
    evaluation: Evaluation | None = None
    violations: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    model: Path | None = None
    rung: str | None = None  # the fidelity it reached
    seen: Mapping[str, Seen] = field(default_factory=dict)  # what it showed, by fidelity
    training: int = 0  # of several of one plan: 0 is the first, each has its own seed
    drops: tuple[float, ...] = ()  # of all trainings on validation, where there were several

    @property
    def feasible(self) -> bool:
        """Completed, and every stated limit met by point estimate."""
        return self.state == "complete" and all(v <= 0 for v in self.violations.values())

    @property
    def seconds(self) -> float:
        """Seconds the trial took."""
        return sum(self.stages.values())

    @property
    def cached(self) -> bool:
        """Nothing of it was computed: an earlier search had run the same."""
        return set(self.stages) == {"cached"}

    @property
    def is_baseline(self) -> bool:
        """One of the simple plans that stand beside every search."""
        return self.origin.startswith("baseline:")
