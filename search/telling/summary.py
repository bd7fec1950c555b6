"""How a search ended, for the person at the terminal and, as JSON, for the next program."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from evaluators import Evaluation, Measurement
from search.masking import without_secrets
from search.publishing.registry import address
from search.result import SearchResult
from search.running.study_folder import StudyFolder
from search.sqlite_url import sqlite_url
from search.task import Metric
from search.telling import words
from search.telling.figures import figures_of, value
from search.telling.proof_words import ProofOutcome
from search.telling.report.formats import told_format
from search.trial import Trial
from spaces.space import input_size

NOTHING = "–"
LARGEST_SAVINGS = 3  # that are told at the terminal; the report has all
BUNDLE = "best"  # the winner's folder in the study's
STOPPED = {
    "trials": "all trials done",
    "budget": "as nothing more fits the budget",
    "minute": "as nothing more fits a minute",
    "interrupt": "interrupted",
    "exhausted": "the sampler out of new plans",
    "untrained": "nothing left to try without training",
}


@dataclass(frozen=True)
class Contender:
    """One of the models that are compared at the end, with all its figures.

    ``validation`` and ``test`` are the search's metric on either split. ``figures`` holds the
    rest; what was measured again at the end stands for what was measured during the search.
    """

    trial: Trial
    figures: Evaluation
    validation: Measurement | None
    test: Measurement | None

    def to_json(self) -> dict[str, Any]:
        """The figures by name; None where one was not evaluated."""
        latency = self.figures.measurements.get("latency_ms")
        return {
            "plan_id": self.trial.plan.plan_id,
            "trial": self.trial.number,
            "accuracy_validation": _number(self.validation),
            "accuracy_test": _number(self.test),
            "latency_ms": _number(latency),
            "latency_source": latency.source if latency else None,
            "latency_tier": (latency.detail or {}).get("tier") if latency else None,
            "size_bytes": _whole(self.figures.measurements.get("size_bytes")),
            "peak_memory_bytes": _whole(self.figures.measurements.get("peak_memory_bytes")),
            "peak_tensor_bytes": _whole(self.figures.measurements.get("peak_tensor_bytes")),
        }


def contender(trial: Trial, metric: Metric, test: Evaluation | None = None) -> Contender:
    """A trial with the figures that were taken once the test split was open."""
    return Contender(
        trial, figures_of(trial, test), on_validation(trial, metric), on_test(test, metric)
    )


def on_validation(trial: Trial, metric: Metric) -> Measurement | None:
    """The search's metric on the validation split: the evaluators name it as the metric."""
    return trial.evaluation.measurements.get(metric) if trial.evaluation else None


def on_test(test: Evaluation | None, metric: Metric) -> Measurement | None:
    """The search's metric on the test split."""
    if test is None:
        return None
    return test.measurements.get(f"{metric}_test") or test.measurements.get(metric)


def baseline_of(result: SearchResult) -> Contender:
    """The untouched model."""
    return contender(result.baseline, result.metric, result.baseline_test)


def simple_of(result: SearchResult) -> Contender | None:
    """The strongest simple baseline."""
    trial = result.strongest_simple
    return contender(trial, result.metric, result.simple_test) if trial else None


def winner_of(result: SearchResult) -> Contender | None:
    """The winner."""
    winner = result.winner
    return contender(winner.trial, result.metric, winner.test) if winner else None


def speedup(reference: Contender, other: Contender) -> float | None:
    """How many times faster ``other`` is than ``reference``; None where it was not evaluated.

    From the ratios that were taken in runs beside the baseline's where there are any, else from
    the two latencies.
    """
    before, after = _relative_latency(reference), _relative_latency(other)
    if before is None or after is None:
        before, after = value(reference.figures, "latency_ms"), value(other.figures, "latency_ms")
    return before / after if before and after else None


def to_json(result: SearchResult) -> dict[str, Any]:
    """The object that ``--json`` prints; strict JSON, null for what was not evaluated.

    ``accuracy_*`` hold the metric named by ``metric``; ``winner.path`` is the bundle's folder.
    What is on the front meets every limit but, where it is not ``feasible``, that of the drop.
    """
    states = [trial.state for trial in result.trials]
    simple, winner = simple_of(result), winner_of(result)
    ending = None
    if winner and result.winner:
        ending = {
            **winner.to_json(),
            "drop": _finite(result.winner.bound.drop),
            "drop_bound": result.winner.outcome.own_bound,
            "proven": result.winner.proven,
            "proof": result.winner.outcome.to_json(),
            "path": str(result.folder / BUNDLE),
            "savings": [asdict(saving) for saving in result.savings],
        }
    shown = ("plan_id", "accuracy_validation", "latency_ms", "latency_tier", "size_bytes")
    return {
        "study": result.study,
        "target": result.profile.name,
        "metric": result.metric,
        "seconds": round(result.seconds, 3),
        "stopped_by": result.stopped_by,
        "trained_again": trained_again(result),
        "trials": {
            "completed": states.count("complete"),
            "rejected": states.count("rejected"),
            "failed": states.count("failed"),
        },
        "baseline": baseline_of(result).to_json(),
        "strongest_simple": simple and {**simple.to_json(), **_simple_proof(result)},
        "winner": ending,
        "front": [
            {name: point[name] for name in shown} | {"feasible": trial.feasible}
            for trial in result.front
            for point in [contender(trial, result.metric).to_json()]
        ],
        "exports": {export.name: export.to_json() for export in result.exports},
        "blocking": list(result.blocking),
        "infeasible": _infeasible(result),
    }


def trained_again(result: SearchResult) -> int:
    """How many trainings of finalists there were beside each one's first."""
    return sum(len(trial.drops) - 1 for trial in result.trials if trial.drops)


def _infeasible(result: SearchResult) -> dict[str, Any] | None:
    """The closest plan, and for each limit in the way who blocks and what relaxing it buys."""
    closest = result.closest
    if closest is None:
        return None
    return {
        "closest": {
            **contender(closest, result.metric).to_json(),
            "trained": closest.state == "complete",
            "violations": dict(closest.violations),
        },
        "limits": [asdict(block) for block in result.blocks],
    }


def table(result: SearchResult) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the final comparison: one column per contender, one row per figure."""
    baseline, simple, winner = baseline_of(result), simple_of(result), winner_of(result)
    columns = [("baseline", baseline), ("strongest simple", simple), ("winner", winner)]
    shown = [(title, c) for title, c in columns if c is not None]
    metric = words.metric_title(result.metric)
    rows = [
        ["trial", *(f"{c.trial.number}: {words.origin(c.trial.origin)}" for _, c in shown)],
        ["plan", *(c.trial.plan.plan_id for _, c in shown)],
        *input_rows(result, [c.trial for _, c in shown]),
        [f"{metric}, validation", *(words.percent(_number(c.validation)) for _, c in shown)],
        [f"{metric}, test", *(words.percent(_number(c.test)) for _, c in shown)],
        ["drop on test", *_last(result, len(shown), lambda proof: words.points(proof.bound.drop))],
        ["its own bound, alone", *_last(result, len(shown), lambda p: words.points(p.own_bound))],
        ["proof", *_last(result, len(shown), lambda proof: proof.verdict)],
        ["latency", *(words.latency(value(c.figures, "latency_ms")) for _, c in shown)],
        ["latency is", *(_source(c, "latency_ms") for _, c in shown)],
        ["speed-up", *(gained(baseline, c) for _, c in shown)],
        ["size", *(words.size(value(c.figures, "size_bytes")) for _, c in shown)],
        ["size ratio", *(_smaller(baseline, c) for _, c in shown)],
        [
            _memory_title(winner or baseline),
            *(words.size(value(c.figures, "peak_memory_bytes")) for _, c in shown),
        ],
        ["above runtime floor", *(_above_floor(c) for _, c in shown)],
        [
            "peak of tensors",
            *(words.size(value(c.figures, "peak_tensor_bytes")) for _, c in shown),
        ],
        ["multiply-accumulates", *(words.count(value(c.figures, "macs")) for _, c in shown)],
    ]
    told = [row for row in rows if set(row[1:]) - {words.UNKNOWN, NOTHING, ""}]
    return ["", *(title for title, _ in shown)], told


def input_rows(result: SearchResult, trials: Sequence[Trial]) -> list[list[str]]:
    """The row of the inputs' sizes, where they are not all those of the images."""
    images = result.data.preprocess.size
    sizes = [input_size(trial.plan, images) for trial in trials]
    if set(sizes) == {images}:
        return []
    return [["input", *(f"{height}x{width}" for height, width in sizes)]]


def closing(result: SearchResult) -> list[str]:
    """The sentences that matter: what won and whether it is proved, or what stood in the way."""
    if result.winner is None:
        return ["No candidate meets the limits.", *result.blocking, *_closest(result)]
    sentences = [_headline(result), result.winner.outcome.sentences]
    if why := why_simple_lost(result):
        sentences.append(why)
    metric = words.metric_title(result.metric)
    sentences += [told_format(export, metric) for export in result.exports]
    latency = figures_of(result.winner.trial, result.winner.test).measurements.get("latency_ms")
    return [*sentences, f"Latency: {words.brief(latency)}."] if latency else sentences


def why_simple_lost(result: SearchResult) -> str | None:
    """One sentence where the winner is slower than the strongest simple baseline."""
    simple, winner = result.strongest_simple, result.winner
    if simple is None or winner is None or _search_ms(simple) >= _search_ms(winner.trial):
        return None
    name = f"Trial {simple.number} ({words.origin(simple.origin)}), the strongest simple one, is"
    name += " faster but not proved"
    tested = next((f for f in result.finalists if f.trial.number == simple.number), None)
    if tested is None:
        return f"{name}: a safer finalist had failed before its turn came."
    return f"{name}. {tested.outcome.evidence} {tested.outcome.remedy}"


def _simple_proof(result: SearchResult) -> dict[str, Any]:
    """What the test split says of the strongest simple one; its bound by itself proves nothing."""
    figures = result.simple_test.measurements if result.simple_test else {}
    proved = {f.trial.number for f in result.finalists if f.proven}
    return {
        "drop": _number(figures.get("drop")),
        "drop_bound": _number(figures.get("drop_bound")),
        "proven": result.strongest_simple is not None and result.strongest_simple.number in proved,
    }


def largest_savings(result: SearchResult) -> list[str]:
    """The choices of the winner that save most time, each found by reverting it alone."""
    told = []
    for saving in result.savings[:LARGEST_SAVINGS]:
        costs = ""
        if saving.costs is not None:
            costs = f", costs {words.points(saving.costs)} ({saving.source})"
        saved_ms = words.signed(saving.saves_ms, words.latency, plus="")
        saved_bytes = words.signed(saving.saves_bytes, words.size, plus="")
        told.append(f"{saving.choice} saves {saved_ms} and {saved_bytes}{costs}")
    if not told:
        return []
    return [
        f"Of the winner's {len(result.savings)} choices, each reverted alone: {'; '.join(told)}."
    ]


def stopped(result: SearchResult) -> str:
    """Why and when the search ended."""
    counts = to_json(result)["trials"]
    again = trained_again(result)
    counts["more training of a finalist" if again == 1 else "more trainings of finalists"] = again
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    why = STOPPED.get(result.stopped_by, result.stopped_by)
    return f"Ended after {words.duration(result.seconds)}, {why}: {told}."


def commands(result: SearchResult) -> list[tuple[str, str]]:
    """What to type next: (purpose, command)."""
    told = []
    if result.tracking_uri:
        told.append(("review", review_command(result.tracking_uri)))
    told.append(("dashboard", dashboard_command(result)))
    if result.tracking_uri and result.register and result.winner:
        store = shlex.quote(without_secrets(result.tracking_uri))
        model = shlex.quote(address(result.register, result.profile.name))
        serve = f"mlflow models serve --model-uri {model} --env-manager local"
        told.append(("serve", f"MLFLOW_TRACKING_URI={store} {serve}"))
    if result.winner:
        verify = result.folder / BUNDLE / "verify.py"
        told.append(("verify", f"python {shlex.quote(str(verify))}"))
    return [*told, ("reproduce", result.command)]


def dashboard_command(result: SearchResult) -> str:
    """How to look at the study with Optuna's own dashboard, during the search and after it."""
    database = StudyFolder(result.folder).database
    return f"optuna-dashboard {shlex.quote(result.storage or sqlite_url(database))}"


def review_command(tracking_uri: str) -> str:
    """How to look at an MLflow store; a server is an address to open, without its password."""
    if tracking_uri.startswith(("http://", "https://")):
        return f"python -m webbrowser {shlex.quote(without_secrets(tracking_uri))}"
    return f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}"


def summary(result: SearchResult, width: int = 100) -> str:
    """The final table, the closing sentences and the next commands, as text."""
    header, rows = table(result)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, title in enumerate(header):
        grid.add_column(title, justify="right" if index else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    page = StringIO()
    console = Console(file=page, width=width, color_system=None, markup=False, highlight=False)
    console.print(grid)
    for sentence in [
        *closing(result),
        *largest_savings(result),
        stopped(result),
        *result.data.notes,
    ]:
        console.print(sentence)
    report = StudyFolder(result.folder).report.resolve().as_uri()
    typed = [("report", f"python -m webbrowser {report}"), *commands(result)]
    told = "\n".join(f"  {purpose:<10} {command}" for purpose, command in typed)
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    return "\n".join([*lines, "", told]) + "\n"  # a command is never broken into lines


def _headline(result: SearchResult) -> str:
    baseline, simple, winner = baseline_of(result), simple_of(result), winner_of(result)
    assert winner is not None
    name = f"trial {winner.trial.number} ({words.origin(winner.trial.origin)})"
    if winner.trial.number == baseline.trial.number:
        return untouched_delivered(result)
    gain = f"The winner, {name}, is {gained(baseline, winner)} as fast as the baseline"
    if simple is None:
        return f"{gain}; no simple baseline meets the limits."
    if simple.trial.number == winner.trial.number:
        return f"{gain}; it is itself the strongest simple baseline."
    times = gained(simple, winner)
    return f"{gain} and {times} as fast as the strongest simple one."


def untouched_delivered(result: SearchResult) -> str:
    """Why the untouched model is handed over."""
    cut_off = f" Cut off: {', '.join(result.cut_off)}." if result.cut_off else ""
    if result.compressed:
        count = words.counted(result.compressed, "finished compressed model")
        return (
            f"The untouched model is delivered: of {count} none is faster and "
            f"meets the limits.{cut_off}"
        )
    return (
        f"The untouched model is delivered: 0 compressed models finished.{cut_off} Give a larger "
        f"--budget, or ask for what needs no training with --no-training."
    )


def _closest(result: SearchResult) -> list[str]:
    told = []
    for trial in result.near_misses:
        point = contender(trial, result.metric)
        told.append(
            f"Close: trial {trial.number} ({words.origin(trial.origin)}), "
            f"{words.percent(_number(point.validation))} {words.metric_title(result.metric)} on "
            f"validation, {words.latency(value(point.figures, 'latency_ms'))}, "
            f"{words.size(value(point.figures, 'size_bytes'))}."
        )
    return told


def _last(result: SearchResult, columns: int, of: Callable[[ProofOutcome], str]) -> list[str]:
    """The winner's column is the last; nobody else's drop was put to the test."""
    if result.winner is None or result.winner.outcome.kind == "untouched":
        return [NOTHING] * columns
    return [*[NOTHING] * (columns - 1), of(result.winner.outcome)]


def _search_ms(trial: Trial) -> float:
    """The latency by which the winner was chosen."""
    return figures_of(trial).value("latency_ms")


def _source(point: Contender, name: str) -> str:
    return words.source(point.figures.measurements.get(name))


def _relative_latency(point: Contender) -> float | None:
    return 1.0 if _is_fp32(point) else value(point.figures, "latency_ratio")


def _is_fp32(point: Contender) -> bool:
    return point.trial.origin == "baseline:fp32"


def speedup_interval(reference: Contender, other: Contender) -> tuple[float, float] | None:
    """Between what the speed-up lies; None where that is not known.

    From the ratios that were measured beside the same file, else from the two latencies, as if
    the one were at its lowest where the other is at its highest.
    """
    if other.trial.number == reference.trial.number:
        return None
    for name in ("latency_ratio", "latency_ms"):
        after = _limits(other, name)
        before = (1.0, 1.0) if name == "latency_ratio" and _is_fp32(reference) else None
        before = before or _limits(reference, name)
        if before and after:
            return before[0] / after[1], before[1] / after[0]
    return None


def _limits(point: Contender, name: str) -> tuple[float, float] | None:
    figure = point.figures.measurements.get(name)
    return (figure.low, figure.high) if figure and figure.low and figure.high else None


def gained(reference: Contender, other: Contender) -> str:
    """How many times as fast, and between what that lies: ``7.4× (7.1× to 7.7×)``."""
    interval = speedup_interval(reference, other)
    told = _times(reference, other)
    return told if interval is None else f"{told} ({words.between(interval)})"


def _times(reference: Contender, other: Contender) -> str:
    """By as many digits as are known."""
    times = speedup(reference, other)
    latency = other.figures.measurements.get("latency_ms")
    if other.trial.number == reference.trial.number:
        return words.ratio(times)
    estimated = latency is not None and latency.source == "estimated"
    return words.about(times) if estimated else words.ratio(times)


def _smaller(baseline: Contender, other: Contender) -> str:
    before, after = value(baseline.figures, "size_bytes"), value(other.figures, "size_bytes")
    return words.ratio(before / after if before and after else None)


def _memory_title(point: Contender) -> str:
    """The row's title, with the machine on which the memory was read."""
    figure = point.figures.measurements.get("peak_memory_bytes")
    machine = (figure.detail or {}).get("machine") if figure else None
    return f"peak memory on {machine}" if machine else "peak memory"


def _above_floor(point: Contender) -> str:
    return words.size(value(point.figures, "peak_memory_above_floor_bytes"))


def _number(measurement: Measurement | None) -> float | None:
    return _finite(measurement.value) if measurement else None


def _whole(measurement: Measurement | None) -> int | None:
    number = _number(measurement)
    return None if number is None else round(number)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
