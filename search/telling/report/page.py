"""Writes ``report.html``: one file that needs no network, on a phone or a desk."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from hardware_profiles import atomic
from search.concluding.infeasible import figure, typed
from search.deciding.sensitivity import Sensitivity
from search.result import SearchResult
from search.telling import words
from search.telling.report.classes import class_table
from search.telling.report.forest import forest
from search.telling.report.formats import format_row
from search.telling.report.front import front_chart, plotted, sources
from search.telling.report.heat import heat_table
from search.telling.report.layers import layer_table
from search.telling.report.panels import panel
from search.telling.report.plans import plan_lines
from search.telling.report.savings import saving_rows
from search.telling.report.tables import (
    by_latency,
    compared,
    comparison,
    limits,
    provenance,
    trial_row,
)
from search.telling.report.times import stages
from search.telling.report.verdict import headline, verdict
from search.telling.summary import commands, stopped
from search.telling.words import metric_title

_FOLDER = Path(__file__).parent / "page"
_WIDE, _NARROW = (720, 540), (380, 380)
_CLASSES_SHOWN = 12


def write_report(
    path: Path,
    result: SearchResult,
    *,
    sensitivity: Sensitivity | None = None,
) -> Path:
    """Writes the report to ``path`` and returns it; one that is there already is replaced whole.

    What was not evaluated is said to be so. ``sensitivity`` is shown where it is known.
    """
    atomic.write_text(path, render(result, sensitivity))
    return path


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def render(
    result: SearchResult,
    sensitivity: Sensitivity | None = None,
) -> str:
    """The page as HTML. All text that is not the project's own is escaped by the template."""
    panels = [panel(result, trial) for trial in plotted(result)]
    best = result.winner.trial.number if result.winner else result.baseline.number
    return _template().render(
        words=words,
        result=result,
        metric=metric_title(result.metric),
        style=(_FOLDER / "style.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "script.js").read_text(encoding="utf-8"),
        headline=headline(result),
        verdict=verdict(result),
        stopped=stopped(result),
        compared=compared(result),
        rows=comparison(result),
        charts=[
            ("wide", front_chart(result, *_WIDE, narrow=False)),
            ("narrow", front_chart(result, *_NARROW, narrow=True)),
        ],
        latency_sources=sources(result),
        panels=[asdict(p) for p in panels],
        selected=next((p for p in panels if p.trial == best), panels[0] if panels else None),
        front=[trial_row(result, trial) for trial in by_latency(result.front)],
        near=[trial_row(result, trial) for trial in result.near_misses],
        limits=limits(result),
        forest=forest(result),
        formats=[format_row(export) for export in result.exports],
        layers=layer_table(result),
        plan=plan_lines(result.winner.trial.plan) if result.winner else (),
        savings=saving_rows(result.savings),
        blocks=result.blocks,
        figure_of=figure,
        typed=typed,
        closest=trial_row(result, result.closest) if result.closest else None,
        heat=heat_table(sensitivity) if sensitivity else None,
        classes=class_table(result),
        classes_shown=_CLASSES_SHOWN,
        trials=[trial_row(result, trial) for trial in result.trials],
        times=stages(result),
        provenance=provenance(result),
        commands=commands(result),
    )
