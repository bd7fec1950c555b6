"""How a search ended: all that the table, the report, the bundle and MLflow are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluators import Evaluation
from evaluators.tasks.drop import DropBound
from hardware_profiles import HardwareProfile
from search.bundle.exports.exporter import Exported
from search.concluding.attribution import Saving
from search.concluding.infeasible import Block
from search.limits import Limits
from search.task import DataSet, Metric
from search.telling.proof_words import ProofOutcome
from search.trial import Trial


@dataclass(frozen=True)
class Finalist:
    """A trial after the test split was opened: its figures there, and its drop's bound.

    ``test`` holds ``accuracy_test`` and the final latency figures.
    """

    trial: Trial
    test: Evaluation
    outcome: ProofOutcome

    @property
    def bound(self) -> DropBound:
        """Its drop on the test split, with its bound."""
        return self.outcome.bound

    @property
    def proven(self) -> bool:
        """Whether its drop is shown to be within the limit; the untouched model has none."""
        return self.outcome.kind in ("untouched", "proved")


@dataclass(frozen=True)
class SearchResult:
    """A finished search. ``winner`` is None when nothing meets the limits (infeasible).

    ``finalists`` are in the order in which they were tested. ``near_misses`` and ``blocking``
    (one sentence a constraint: how far off, what relaxing it would buy) explain the rest.
    ``baseline_test`` and ``simple_test`` are the test-split figures of trial 0 and of the
    strongest simple baseline.

    ``savings`` are the winner's choices, what saves most first. Without a winner, ``closest`` is
    the plan that comes nearest to all limits and ``blocks`` are the limits in its way.
    """

    study: str
    folder: Path
    profile: HardwareProfile
    limits: Limits
    metric: Metric
    data: DataSet
    model_spec: str
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    baseline: Trial
    strongest_simple: Trial | None
    winner: Finalist | None
    finalists: tuple[Finalist, ...]
    baseline_test: Evaluation
    simple_test: Evaluation | None
    near_misses: tuple[Trial, ...]
    blocking: tuple[str, ...]
    stopped_by: str
    seconds: float
    command: str  # the command line that reproduces this search
    environment: Mapping[str, str]  # versions, processor, seed
    tracking_uri: str | None = None
    storage: str | None = None  # the URL of the study's, where that isn't its folder's own file
    register: str | None = None  # the winner's name in MLflow's registry
    exports: tuple[Exported, ...] = ()  # the winner in other formats
    savings: tuple[Saving, ...] = ()
    closest: Trial | None = None
    blocks: tuple[Block, ...] = ()
    cut_off: tuple[str, ...] = ()  # what the budget had no time for, in words

    @property
    def compressed(self) -> int:
        """How many compressed models were finished."""
        return sum(t.state == "complete" and bool(t.plan.settings) for t in self.trials)

    @property
    def short_of_time(self) -> bool:
        """The untouched model is delivered, and the budget had no time for what was to come."""
        delivered = self.winner is not None and not self.winner.trial.plan.settings
        cut = self.stopped_by == "budget" and (bool(self.cut_off) or not self.compressed)
        return delivered and cut


__all__ = ["Finalist", "Limits", "SearchResult"]
