"""A trial as the study's storage keeps it, and back, beside what Optuna's own tools read.

Of a trial, Optuna has the parameters, the values (metric, latency), the constraints and these
user attributes:

    trial      the trial as JSON (``trial_to_json``); its ``number`` is the one that people see
    training   instead of it: another training of a finalist
    repeats    instead of it: the number of the trial that had the same plan (state PRUNED)
    asks       questions to the sampler until then
    elapsed_s  time used until then
    key        identifies the record, so that it is never added twice

Constraints are one for each limit, by name; and their sum where Optuna 4 had it, as that is where
optuna-dashboard (0.21) looks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from evaluators import Evaluation
from search.deciding.finals import best_training
from search.deciding.rungs import Seen
from search.errors import StudyError
from search.trial import Trial
from spaces import CompressionPlan

STUDY_VERSION = 6
TRIAL, TRAINING, REPEATS = "trial", "training", "repeats"


@dataclass(frozen=True)
class Kept:
    """A finished trial with the best of its trainings, and when the last of them ended."""

    trial: Trial
    ended: datetime


class KeptTrials:
    """The finished trials of a study by number, as its records are read one after the other."""

    def __init__(self) -> None:
        self._trainings: dict[int, list[Trial]] = {}
        self._ended: dict[int, datetime] = {}

    def add(self, record: FrozenTrial) -> int | None:
        """Reads the next record; the number of the trial that it is of, None for a repetition.

        Raises:
            StudyError: it was written by another release.
        """
        data = record.user_attrs.get(TRIAL) or record.user_attrs.get(TRAINING)
        if data is None:
            return None
        trial = trial_from_json(data)
        assert record.datetime_complete is not None
        self._trainings.setdefault(trial.number, []).append(trial)
        self._ended[trial.number] = record.datetime_complete
        return trial.number

    def __getitem__(self, number: int) -> Kept:
        return Kept(best_training(self._trainings[number]), self._ended[number])

    def __iter__(self) -> Iterator[int]:
        """Numbers, in the order in which the trials ended."""
        return iter(self._trainings)


def check_version(version: object) -> None:
    """Whether this release reads a study of that version.

    Raises:
        StudyError: it doesn't.
    """
    if version != STUDY_VERSION:
        of = "an earlier one" if version is None else version
        raise StudyError(
            f"a study must be of version {STUDY_VERSION}, but this one is of {of}, by another "
            f"release: start a new one with another --study, or go on with that release"
        )


def trial_to_json(trial: Trial) -> dict[str, Any]:
    """A versioned JSON object; ``trial_from_json`` gives an equal trial back."""
    return {
        "version": STUDY_VERSION,
        "number": trial.number,
        "plan": trial.plan.to_json(),
        "state": trial.state,
        "origin": trial.origin,
        "evaluation": trial.evaluation.to_json() if trial.evaluation else None,
        "violations": dict(trial.violations),
        "reason": trial.reason,
        "stages": dict(trial.stages),
        "model": str(trial.model) if trial.model else None,
        "rung": trial.rung,
        "seen": {rung: asdict(seen) for rung, seen in trial.seen.items()},
        "training": trial.training,
    }


def trial_from_json(data: Mapping[str, Any]) -> Trial:
    """The trial that ``trial_to_json`` wrote.

    Raises:
        StudyError: it was written by another release.
    """
    check_version(data.get("version"))
    return Trial(
        number=data["number"],
        plan=CompressionPlan.from_json(data["plan"]),
        state=data["state"],
        origin=data["origin"],
        evaluation=Evaluation.from_json(data["evaluation"]) if data["evaluation"] else None,
        violations=data["violations"],
        reason=data["reason"],
        stages=data["stages"],
        model=Path(data["model"]) if data["model"] else None,
        rung=data["rung"],
        seen={rung: Seen(**seen) for rung, seen in data["seen"].items()},
        training=data["training"],
    )
