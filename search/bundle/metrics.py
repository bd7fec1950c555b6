"""``metrics.json``: baseline, strongest simple baseline and winner, figures with sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evaluators import Evaluation
from search.result import Finalist, SearchResult
from search.trial import Trial

METRICS_VERSION = 2


def metrics_json(result: SearchResult, finalist: Finalist) -> dict[str, Any]:
    """All figures that the bundle claims, and under which limits.

    ``search`` holds what guided the search (accuracy on the validation split), ``test`` what was
    taken at the end (accuracy on the test split).
    """
    simple = result.strongest_simple
    return {
        "version": METRICS_VERSION,
        "study": result.study,
        "target": result.profile.name,
        "model": result.model_spec,
        "data": {"name": result.data.name, "fingerprint": result.data.fingerprint},
        "metric": result.metric,
        "limits": asdict(result.limits),
        "baseline": _figures(result.baseline, result.baseline_test),
        "strongest_simple": _figures(simple, result.simple_test) if simple else None,
        "winner": _figures(finalist.trial, finalist.test),
        "proof": finalist.outcome.to_json(),
        "exports": {export.name: export.to_json() for export in result.exports},
        "choices": [asdict(saving) for saving in result.savings],
        "environment": dict(result.environment),
        "command": result.command,
    }


def _figures(trial: Trial, test: Evaluation | None) -> Mapping[str, Any]:
    """Apart, because a metric bears the same name on the validation and on the test split."""
    return {
        "plan_id": trial.plan.plan_id,
        "trial": trial.number,
        "origin": trial.origin,
        "search": (trial.evaluation or Evaluation({})).to_json(),
        "test": (test or Evaluation({})).to_json(),
    }
