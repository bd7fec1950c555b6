"""How a search ended, as MLflow is to show it: one file of plain JSON in the study's folder.

What a trial is worth is in the study's storage; here is what is known only at the end: roles,
figures of the test split, the story, the front, and which files belong to it. A search that is
resumed has no end yet and removes the file.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles import atomic
from search.publishing.figure import draw_front
from search.publishing.publish import ENDING
from search.publishing.trial_run import (
    MAX_TAG,
    NO_ROLE,
    finite,
    truth,
    with_interval,
)
from search.result import Finalist, SearchResult
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
from spaces.space import input_size

FRONT_TABLE, FRONT_FIGURE, EXAMPLE = "front.json", "front.png", "example.npy"
EXAMPLES = 2  # images in the model's input example


def write_ending(
    result: SearchResult,
    time_ms: int,
    report: Path | None,
    bundle: Path | None,
    register: str | None,
) -> None:
    """Writes the ending and the files that only MLflow shows into the study's folder.

    Raises:
        OSError: the folder can't be written; no ending is there then.
    """
    draw_front(result, result.folder / FRONT_FIGURE)
    files: list[tuple[Path | None, str | None]]
    files = [(result.folder / FRONT_FIGURE, None), (report, None)]
    if result.winner:
        files.append((bundle, "bundle"))
    content = {
        **ending(result, time_ms),
        "files": [
            {"path": _relative(path, result.folder), "to": to} for path, to in files if path
        ],
        "model": _model(result, bundle, register) if bundle and result.winner else None,
    }
    atomic.write_text(result.folder / ENDING, json.dumps(content, allow_nan=False))


def ending(result: SearchResult, time_ms: int) -> dict[str, Any]:
    """All of it but the files. Trials without a role and without test figures are left out."""
    finalists = {finalist.trial.number: finalist for finalist in result.finalists}
    trials = {}
    for trial in result.trials:
        finalist = finalists.get(trial.number)
        role = {
            "tags": _roles(result, trial, finalist),
            "metrics": _test_metrics(result, trial, finalist),
        }
        if role != {"tags": NO_ROLE, "metrics": {}}:
            trials[str(trial.number)] = role
    return {
        "time_ms": time_ms,
        "trials": trials,
        "tags": {name: text[:MAX_TAG] for name, text in _parent_tags(result).items()},
        "metrics": _parent_metrics(result),
        "table": {"file": FRONT_TABLE, **_front_table(result)},
    }


def _model(result: SearchResult, bundle: Path, register: str | None) -> dict[str, Any]:
    assert result.winner is not None
    stated = result.data.preprocess
    size = input_size(result.winner.trial.plan, stated.size)
    example = replace(stated, size=size).apply(result.data.test.images[:EXAMPLES])
    np.save(result.folder / EXAMPLE, example, allow_pickle=False)
    return {
        "path": _relative(bundle / "model.onnx", result.folder),
        "example": EXAMPLE,
        "register": register,
        "alias": result.profile.name,
        "tags": {
            "study": result.study,
            "plan_id": result.winner.trial.plan.plan_id,
            "proven": truth(result.winner.proven),
            "proof": result.winner.outcome.claim,
        },
    }


def _relative(path: Path, folder: Path) -> str:
    """A study's folder may be moved before it is published."""
    return os.path.relpath(path, folder)


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
        "on_front": truth(any(trial.number == t.number for t in result.front)),
        "role": ", ".join(roles) or "none",
    }
    return tags | ({"proven": truth(finalist.proven)} if finalist else {})


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
        if name in ("drop", "drop_bound"):
            continue  # by these names runs have the figures of the validation split
        found |= with_interval(f"{result.metric}_test" if figure is quality else name, figure)
    if finalist:
        found["drop_test"] = finalist.bound.drop
        if finalist.outcome.own_bound is not None:
            found["drop_bound_test"] = finalist.outcome.own_bound
    return finite(found)


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
        tags["proof"] = result.winner.outcome.sentences
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
    return finite({name: figure for name, figure in found.items() if figure is not None})


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
