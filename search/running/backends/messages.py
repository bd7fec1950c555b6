"""Jobs and outcomes as JSON: what goes between the driver and workers in other processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluators import Evaluation
from search.training.job import Job, Outcome
from spaces import CompressionPlan


def job_to_json(job: Job) -> dict[str, Any]:
    """A JSON object; ``job_from_json`` gives an equal job back."""
    return {
        "plan": job.plan.to_json(),
        "epochs": job.epochs,
        "constrained": job.constrained,
        "checkpoint": _text(job.checkpoint),
        "exported": _text(job.exported),
        "training": job.training,
    }


def job_from_json(data: Mapping[str, Any]) -> Job:
    """The job that ``job_to_json`` wrote."""
    return Job(
        CompressionPlan.from_json(data["plan"]),
        data["epochs"],
        data["constrained"],
        _path(data["checkpoint"]),
        _path(data["exported"]),
        data["training"],
    )


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """A JSON object; ``outcome_from_json`` gives an equal outcome back."""
    return {
        "evaluation": outcome.evaluation.to_json(),
        "violations": dict(outcome.violations),
        "stages": dict(outcome.stages),
        "model": _text(outcome.model),
        "reason": outcome.reason,
        "checkpoint": _text(outcome.checkpoint),
    }


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """The outcome that ``outcome_to_json`` wrote."""
    return Outcome(
        Evaluation.from_json(data["evaluation"]),
        data["violations"],
        data["stages"],
        _path(data["model"]),
        data["reason"],
        _path(data["checkpoint"]),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
