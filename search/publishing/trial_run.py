"""A trial as a run in MLflow: parameters, metrics and tags, as plain JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from evaluators import Measurement
from search.deciding.kept import Kept
from search.telling import words
from search.telling.figures import figures_of
from search.trial import Trial

MAX_KEY = 250  # MLflow's limits
MAX_PARAMETER = 6000
MAX_TAG = 5000

NO_ROLE = {"on_front": "false", "role": "none"}

Run = dict[str, Any]


def trial_run(kept: Kept, metric: str, ending: Mapping[str, Any] | None) -> Run:
    """The nested run of a trial; ``ending`` has its role and test figures once they are known.

    Metrics are (milliseconds since 1970, figures): a figure that is logged twice with its time
    stays one figure.
    """
    trial = kept.trial
    end_ms = round(kept.ended.timestamp() * 1000)
    role = (ending or {}).get("trials", {}).get(str(trial.number), {})
    metrics = [(end_ms, trial_metrics(trial, metric))]
    if ending and role:
        metrics.append((ending["time_ms"], role["metrics"]))
    return {
        "name": f"{trial.number:04d} {trial.origin}",
        "status": "FAILED" if trial.state == "failed" else "FINISHED",
        "start_ms": end_ms - round(1000 * trial.seconds),
        "end_ms": end_ms,
        "params": plan_parameters(trial.plan.settings),
        "metrics": metrics,
        "tags": {**trial_tags(trial), **NO_ROLE, **role.get("tags", {})},
    }


def digest(content: object) -> str:
    """What tells one piece of JSON from another."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def plan_parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """A plan's settings, flat: ``{"pruning.kept.layer1.0.conv1": "32"}``."""
    flat: dict[str, str] = {}

    def add(name: str, setting: Any) -> None:
        if isinstance(setting, Mapping):
            for key, inner in setting.items():
                add(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(setting, list):
            flat[as_key(name)] = ", ".join(map(str, setting))[:MAX_PARAMETER]
        else:
            flat[as_key(name)] = str(setting)[:MAX_PARAMETER]

    add("", settings)
    return flat


def trial_metrics(trial: Trial, metric: str) -> dict[str, float]:
    """Every figure by name and unit; intervals as ``_low`` and ``_high``; seconds by stage."""
    metrics: dict[str, float] = {}
    for name, figure in figures_of(trial).measurements.items():
        on_split = name in (metric, "accuracy", "drop", "drop_bound")
        title = f"{name}_validation" if on_split else name
        metrics |= with_interval(title, figure)
    metrics |= {f"{limit}_violation_share": by for limit, by in trial.violations.items()}
    metrics |= {f"{stage}_seconds": seconds for stage, seconds in trial.stages.items()}
    return finite(metrics | {"trial_seconds": trial.seconds})


def trial_tags(trial: Trial) -> dict[str, str]:
    """How it came about and how it ended."""
    tags = {
        "plan_id": trial.plan.plan_id,
        "origin": trial.origin,
        "state": trial.state,
        "feasible": truth(trial.feasible),
    }
    if trial.reason:
        tags["reason"] = trial.reason
        tags["mlflow.note.content"] = trial.reason
    for name, figure in figures_of(trial).measurements.items():
        if name == "latency_ms":
            tags |= {"latency_source": figure.source, "latency_how": words.brief(figure)}
    return {name: text[:MAX_TAG] for name, text in tags.items()}


def with_interval(name: str, figure: Measurement) -> dict[str, float]:
    """A figure, and the ends of its interval where it has one."""
    numbers = {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return {name: number for name, number in numbers.items() if number is not None}


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures under keys that MLflow takes, without NaN and infinity."""
    return {as_key(n): float(v) for n, v in figures.items() if math.isfinite(v)}


def as_key(name: str) -> str:
    """A key that MLflow takes: a module's name may hold any character."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:MAX_KEY]


def truth(value: bool) -> str:
    """A tag's ``true`` or ``false``."""
    return "true" if value else "false"
