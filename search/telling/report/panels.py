"""What the figure tells about the plan that is pointed at; plain text, so that it is also JSON."""

from __future__ import annotations

from dataclasses import dataclass

from search.result import SearchResult
from search.telling import words
from search.telling.report.plans import plan_lines
from search.telling.summary import Contender, baseline_of, contender, gained
from search.telling.words import metric_title
from search.trial import Trial


@dataclass(frozen=True)
class Panel:
    """``rows`` are (label, figure, where it is from)."""

    trial: int
    title: str
    tags: tuple[str, ...]
    rows: tuple[tuple[str, str, str], ...]


def panel(result: SearchResult, trial: Trial) -> Panel:
    """All that is known about a completed trial."""
    finalist = next((f for f in result.finalists if f.trial.number == trial.number), None)
    own = contender(trial, result.metric)
    metric = metric_title(result.metric)
    rows = [
        _latency(own),
        ("speed", f"{gained(baseline_of(result), own)} of FP32", ""),
        (metric, *_figure(own, result.metric, "on validation")),
    ]
    if "drop" in own.figures:
        rows.append(("drop", words.points(own.figures.value("drop")), "on validation"))
    if finalist:
        again = finalist.test.measurements.get("latency_ms")
        if again:
            rows.insert(1, ("", words.latency(again.value), f"{again.source}, at the end"))
        outcome = finalist.outcome
        rows.append(("", words.points(outcome.bound.drop), f"on test; {outcome.verdict}"))
    rows.append(("size", *_figure(own, "size_bytes")))
    rows.append(("peak memory", *_figure(own, "peak_memory_bytes")))
    rows += [(name, text, "") for name, text in plan_lines(trial.plan)] or [
        ("plan", "the untouched model", "")
    ]
    rows.append(("time", words.duration(trial.seconds), ""))
    title = f"Trial {trial.number}, {words.origin(trial.origin)}"
    return Panel(trial.number, title, _tags(result, trial), tuple(rows))


def excess(trial: Trial) -> tuple[str, ...]:
    """By how much each broken limit is exceeded: a drop in points, all else relative."""
    return tuple(_excess(name, over) for name, over in trial.violations.items() if over > 0)


def _excess(name: str, over: float) -> str:
    named = words.LIMITED.get(name, name)
    if name != "drop" and over >= 1:
        return f"{named} is {1 + over:.3g} times its limit"
    far = words.points(over) if name == "drop" else words.percent(over)
    return f"{named} exceeds its limit by {far}"


def _tags(result: SearchResult, trial: Trial) -> tuple[str, ...]:
    tags = []
    if result.winner and result.winner.trial.number == trial.number:
        tags.append("winner")
    if result.strongest_simple and result.strongest_simple.number == trial.number:
        tags.append("strongest simple baseline")
    if any(t.number == trial.number for t in result.front):
        tags.append("on the front")
    return (*tags, *(excess(trial) or ("meets the limits by point estimate",)))


def _latency(own: Contender) -> tuple[str, str, str]:
    latency = own.figures.measurements.get("latency_ms")
    if latency is None:
        return "latency", words.UNKNOWN, ""
    spread = ""
    if latency.low is not None and latency.high is not None:
        spread = f", {words.latency(latency.low)} to {words.latency(latency.high)}"
    return "latency", words.latency(latency.value), latency.source + spread


def _figure(own: Contender, name: str, where: str = "") -> tuple[str, str]:
    found = own.figures.measurements.get(name)
    return (words.figure(found), f"{found.source} {where}") if found else (words.UNKNOWN, "")
