"""Trials and results as records: what ``sender.py`` writes to a store, as plain JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from evaluators import Measurement
from search.result import Finalist, SearchResult
from search.task import Metric
from search.telling import words
from search.telling.figures import figures_of
from search.telling.summary import (
    baseline_of,
    closing,
    commands,
    contender,
    on_test,
    on_validation,
    simple_of,
    speedup,
    stopped,
    table,
    to_json,
    winner_of,
)
from search.trial import Trial

MAX_KEY = 250  # MLflow's limits
MAX_PARAMETER = 6000
MAX_TAG = 5000
FRONT_TABLE = "front.json"

NO_ROLE = {"on_front": "false", "role": "none"}

Record = dict[str, Any]


def start_record(study: str, key: str, parameters: Mapping[str, object], time_ms: int) -> Record:
    """The parent run; ``key`` identifies it in any store."""
    params = {_key(name): str(given)[:MAX_PARAMETER] for name, given in parameters.items()}
    return {"kind": "start", "study": study, "key": key, "params": params, "time_ms": time_ms}


def trial_record(trial: Trial, metric: Metric, time_ms: int) -> Record:
    """A nested run that ended at ``time_ms`` (milliseconds since 1970)."""
    return {
        "kind": "trial",
        "number": trial.number,
        "name": f"{trial.number:04d} {trial.origin}",
        "status": "FAILED" if trial.state == "failed" else "FINISHED",
        "start_ms": time_ms - round(1000 * trial.seconds),
        "time_ms": time_ms,
        "params": plan_parameters(trial.plan.settings),
        "metrics": trial_metrics(trial, metric),
        "tags": trial_tags(trial),
    }


def plan_parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """A plan's settings, flat: ``{"pruning.kept.layer1.0.conv1": "32"}``."""
    flat: dict[str, str] = {}

    def add(name: str, setting: Any) -> None:
        if isinstance(setting, Mapping):
            for key, inner in setting.items():
                add(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(setting, list):
            flat[_key(name)] = ", ".join(map(str, setting))[:MAX_PARAMETER]
        else:
            flat[_key(name)] = str(setting)[:MAX_PARAMETER]

    add("", settings)
    return flat


def trial_metrics(trial: Trial, metric: Metric) -> dict[str, float]:
    """Every figure by name and unit; intervals as ``_low`` and ``_high``; seconds by stage."""
    found: dict[str, float] = {}
    for name, figure in figures_of(trial).measurements.items():
        on_split = name in (metric, "accuracy", "drop", "drop_bound")
        title = f"{name}_validation" if on_split else name
        found |= _with_interval(title, figure)
    found |= {f"{limit}_violation_share": by for limit, by in trial.violations.items()}
    found |= {f"{stage}_seconds": seconds for stage, seconds in trial.stages.items()}
    return _finite(found | {"trial_seconds": trial.seconds})


def trial_tags(trial: Trial) -> dict[str, str]:
    """How it came about and how it ended; ``on_front`` and ``role`` are known at the end."""
    tags = {
        "plan_id": trial.plan.plan_id,
        "origin": trial.origin,
        "state": trial.state,
        "feasible": _said(trial.feasible),
        **NO_ROLE,
    }
    if trial.reason:
        tags["reason"] = trial.reason
        tags["mlflow.note.content"] = trial.reason
    for name, figure in figures_of(trial).measurements.items():
        if name == "latency_ms":
            tags |= {"latency_source": figure.source, "latency_how": words.brief(figure)}
    return {name: text[:MAX_TAG] for name, text in tags.items()}


def ending_records(result: SearchResult, time_ms: int) -> Iterator[Record]:
    """What is known only at the end, but for files: roles, test figures, the story, the front."""
    finalists = {finalist.trial.number: finalist for finalist in result.finalists}
    for trial in result.trials:
        yield {
            "kind": "update",
            "number": trial.number,
            "time_ms": time_ms,
            "tags": _roles(result, trial, finalists.get(trial.number)),
            # A finalist's figures are those of the best of its trainings.
            "metrics": (trial_metrics(trial, result.metric) if trial.drops else {})
            | _test_metrics(result, trial, finalists.get(trial.number)),
        }
    yield {
        "kind": "parent",
        "time_ms": time_ms,
        "tags": {name: text[:MAX_TAG] for name, text in _parent_tags(result).items()},
        "metrics": _parent_metrics(result),
    }
    yield {"kind": "table", "file": FRONT_TABLE, **_front_table(result)}


def story(result: SearchResult) -> str:
    """The parent run's description, Markdown: it is read without opening anything else."""
    header, rows = table(result)
    lines = [f"## {result.study}: {result.model_spec} for {result.profile.title}", ""]
    lines += [f"{sentence}  " for sentence in [*closing(result), stopped(result)]]
    lines += ["", _row(header), _row(["---"] + ["---:"] * (len(header) - 1)), *map(_row, rows)]
    lines += ["", f"The front has {len(result.front)} plans: `front.png`, `{FRONT_TABLE}` and"]
    lines += ["`report.html` are among the artifacts.", ""]
    lines += [f"- {purpose}: `{command}`" for purpose, command in commands(result)]
    return "\n".join([*lines, *(f"- {note}" for note in result.data.notes)])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _roles(result: SearchResult, trial: Trial, finalist: Finalist | None) -> dict[str, str]:
    named = {"baseline": result.baseline, "strongest_simple": result.strongest_simple}
    roles = [role for role, holder in named.items() if holder and holder.number == trial.number]
    if result.winner and result.winner.trial.number == trial.number:
        roles.append("winner")
    tags = {
        "on_front": _said(any(trial.number == t.number for t in result.front)),
        "role": ", ".join(roles) or "none",
    }
    return tags | ({"proven": _said(finalist.proven)} if finalist else {})


def _test_metrics(
    result: SearchResult, trial: Trial, finalist: Finalist | None
) -> dict[str, float]:
    """Figures of the test split, and figures that were taken again once it was open."""
    simple = result.strongest_simple
    test = finalist.test if finalist else None
    if test is None and trial.number == result.baseline.number:
        test = result.baseline_test
    if test is None and simple and trial.number == simple.number:
        test = result.simple_test
    if test is None:
        return {}
    quality = on_test(test, result.metric)
    found: dict[str, float] = {}
    for name, figure in test.measurements.items():
        found |= _with_interval(f"{result.metric}_test" if figure is quality else name, figure)
    if finalist:
        found |= {"drop_test": finalist.bound.drop, "drop_bound_test": finalist.bound.bound}
    return _finite(found)


def _parent_tags(result: SearchResult) -> dict[str, str]:
    outcome = "infeasible"
    if result.winner:
        outcome = "proven" if result.winner.proven else "unproven"
    tags = {
        "mlflow.note.content": story(result),
        "outcome": outcome,
        "target": result.profile.name,
        "model": result.model_spec,
        "data": result.data.name,
        "data_fingerprint": result.data.fingerprint,
        "metric": result.metric,
        "stopped_by": result.stopped_by,
        "command": result.command,
    }
    if result.winner:
        tags["winner"] = f"trial {result.winner.trial.number}, {result.winner.trial.plan.plan_id}"
    return tags | {f"environment.{name}": text for name, text in result.environment.items()}


def _parent_metrics(result: SearchResult) -> dict[str, float]:
    """The same names in every search, so that searches compare in the charts."""
    baseline, simple, winner = baseline_of(result), simple_of(result), winner_of(result)
    told = to_json(result)
    found: dict[str, float | None] = {"search_seconds": result.seconds}
    found["front_plans"] = len(result.front)
    found |= {f"trials_{state}": number for state, number in told["trials"].items()}
    found["trained_again"] = told["trained_again"]
    for role in ("baseline", "strongest_simple", "winner"):
        for name, figure in (told[role] or {}).items():
            if isinstance(figure, float | int) and name not in ("trial", "proven"):
                title = name.replace("accuracy", result.metric)
                found[f"{role}_{title}"] = figure
    if winner:
        found["speedup_over_baseline"] = speedup(baseline, winner)
        found["speedup_over_strongest_simple"] = speedup(simple, winner) if simple else None
    return _finite({name: figure for name, figure in found.items() if figure is not None})


def _front_table(result: SearchResult) -> dict[str, list[Any]]:
    columns = ["trial", "plan_id", "origin", "role", f"{result.metric}_validation"]
    columns += ["latency_ms", "latency_source", "size_bytes", "peak_memory_bytes", "feasible"]
    rows = []
    for trial in result.front:
        figures = contender(trial, result.metric).to_json()
        quality = on_validation(trial, result.metric)
        rows.append(
            [
                trial.number,
                trial.plan.plan_id,
                trial.origin,
                _roles(result, trial, None)["role"],
                quality.value if quality else None,
                *(figures[name] for name in columns[5:9]),
                trial.feasible,
            ]
        )
    return {"columns": columns, "data": rows}


def _with_interval(name: str, figure: Measurement) -> dict[str, float]:
    found = {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return {name: number for name, number in found.items() if number is not None}


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {_key(n): float(v) for n, v in figures.items() if math.isfinite(v)}


def _key(name: str) -> str:
    """A key that MLflow takes: a module's name may hold any character."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:MAX_KEY]


def _said(truth: bool) -> str:
    return "true" if truth else "false"
