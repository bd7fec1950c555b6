"""The front as a picture: accuracy against latency, with the constraint and who competes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from search.result import SearchResult
from search.telling import words
from search.telling.figures import figures_of, value
from search.telling.summary import on_validation
from search.telling.words import metric_title
from search.trial import Trial

Point = tuple[float, float]  # latency in ms, metric on the validation split as a share


def draw_front(result: SearchResult, path: Path) -> None:
    """Writes the picture as PNG.

    Raises:
        OSError: ``path`` can't be written.
    """
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # no window and no state that the person's own plots could see
    axes = figure.add_subplot()
    baselines = [t for t in result.trials if t.is_baseline and t.number != result.baseline.number]

    def scatter(trials: Iterable[Trial], label: str, **style: Any) -> None:
        axes.scatter(*_xy(result, trials), label=label, **style)

    scatter(result.trials, "trials", s=22, color="#9aa5b1")
    axes.plot(*_xy(result, result.front), "o-", color="#1f77b4", ms=5, lw=1.2, label="front")
    scatter(baselines, "simple baselines", marker="s", s=48, color="#e08214")
    scatter([result.baseline], "untouched", marker="D", s=60, color="#333333")
    for trial in [result.baseline, *baselines]:
        _name(axes, result, trial, words.origin(trial.origin))
    if result.winner:
        label = "winner" if result.winner.proven else "winner (unproven)"
        scatter([result.winner.trial], label, marker="*", s=240, color="#c51b7d", zorder=5)
    _constraints(axes, result)
    axes.set_xscale("log")
    axes.set_xlabel(f"latency on {result.profile.title} [ms], log scale")
    axes.set_ylabel(f"{metric_title(result.metric)} on the validation split [%]")
    axes.set_title(f"{result.study}: {metric_title(result.metric)} against latency")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def _point(result: SearchResult, trial: Trial) -> Point | None:
    quality = on_validation(trial, result.metric)
    latency_ms = value(figures_of(trial), "latency_ms")
    return None if quality is None or latency_ms is None else (latency_ms, quality.value)


def _xy(result: SearchResult, trials: Iterable[Trial]) -> tuple[list[float], list[float]]:
    points = sorted(p for p in (_point(result, t) for t in trials) if p)
    return [x for x, _ in points], [100 * y for _, y in points]


def _name(axes: Axes, result: SearchResult, trial: Trial, text: str) -> None:
    if point := _point(result, trial):
        at = (point[0], 100 * point[1])
        # Slanted and below: good plans lie side by side at the top.
        style: dict[str, Any] = {"fontsize": 7, "rotation": 40, "ha": "right", "va": "top"}
        axes.annotate(text, at, xytext=(2, -5), textcoords="offset points", **style)


def _constraints(axes: Axes, result: SearchResult) -> None:
    if baseline := _point(result, result.baseline):
        least = 100 * (baseline[1] - result.limits.max_drop)
        text = f"largest drop: {words.points(result.limits.max_drop)}"
        axes.axhline(least, color="#b2182b", ls="--", lw=1, label=text)
    if result.limits.max_latency_ms is not None:
        text = f"largest latency: {words.latency(result.limits.max_latency_ms)}"
        axes.axvline(result.limits.max_latency_ms, color="#b2182b", ls=":", lw=1, label=text)
