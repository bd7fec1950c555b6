"""What the person sees while a search runs; all of it on standard error.

On a terminal a display that is drawn over itself, elsewhere (a log, a job's output) one line a
trial and, when a stage takes long, one now and then.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hardware_profiles.printable import printable
from search.task import Metric
from search.telling import words
from search.telling.figures import figures_of, value
from search.telling.summary import on_validation
from search.telling.words import metric_title
from search.trial import Trial

HEARTBEAT_S = 30.0
REDRAWS_PER_S = 4


class Progress(Protocol):
    """Told by the driver what happens. A context manager, so that a terminal is left tidy.

    ``note`` may be called from any thread.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def resumed(self, trials: Sequence[Trial], spent_s: float) -> None:
        """The search goes on after these trials and so many seconds."""
        ...

    def stage(self, trial_number: int, stage: str, fraction: float | None = None) -> None:
        """A trial is at ``stage`` (such as ``train 3/8``), ``fraction`` in [0, 1] through it."""
        ...

    def trial(self, trial: Trial) -> None:
        """A trial is finished, or another training of one that was."""
        ...

    def note(self, text: str) -> None:
        """A sentence for the person."""
        ...


@dataclass
class Score:
    """What is known so far: counts, the baseline, the best and the strongest simple trial.

    ``trials`` and ``budget_s`` are what the search may use, ``spent_s`` what it used before it
    was resumed. Best is the fastest that meets every limit by point estimate.
    """

    metric: Metric
    trials: int | None
    budget_s: float | None
    spent_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    counts: dict[str, int] = field(
        default_factory=lambda: {"complete": 0, "rejected": 0, "failed": 0}
    )
    baseline: Trial | None = None
    simple: Trial | None = None
    best: Trial | None = None
    again: int = 0  # trainings of finalists

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._evaluated_before = 0

    def resume(self, trials: Sequence[Trial], spent_s: float) -> None:
        """Counts what a resumed search has already."""
        self.spent_s = spent_s
        for trial in trials:
            self.add(trial, known=True)

    def add(self, trial: Trial, known: bool = False) -> None:
        """Counts a trial; ``known`` ones were finished before the search was resumed."""
        if trial.training:
            self.again += 1
        else:
            self.counts[trial.state] += 1
        if known:
            self._evaluated_before = self.evaluated
        if trial.origin == "baseline:fp32":
            self.baseline = trial
        if not trial.feasible or _latency_ms(trial) is None:
            return
        self.best = _faster(self.best, trial)
        if trial.is_baseline and trial.origin != "baseline:fp32":
            self.simple = _faster(self.simple, trial)

    @property
    def evaluated(self) -> int:
        """Trials that count toward ``trials``; rejected ones don't."""
        return self.counts["complete"] + self.counts["failed"]

    @property
    def elapsed_s(self) -> float:
        """Seconds used, those before a resumption included."""
        return self.spent_s + self.clock() - self._began

    def left_s(self) -> float | None:
        """Seconds to the end as far as can be told: what is left of the budget, or fewer.

        Trials are taken to go on at the pace of those finished since the search was started.
        """
        left = []
        if self.budget_s is not None:
            left.append(max(0.0, self.budget_s - self.elapsed_s))
        done = self.evaluated - self._evaluated_before
        if self.trials is not None and done > 0:
            pace_s = (self.clock() - self._began) / done
            left.append(pace_s * max(0, self.trials - self.evaluated))
        return min(left, default=None)

    def counted(self) -> str:
        """``7 of 40 trials``, with how many were rejected, failed and trained again."""
        told = (
            f"{self.evaluated} of {self.trials} trials"
            if self.trials
            else words.counted(self.evaluated, "trial")
        )
        others = [f"{self.counts[state]} {state}" for state in ("rejected", "failed")]
        others.append(f"{self.again} trained again")
        return ", ".join([told, *(o for o in others if not o.startswith("0"))])

    def told_time(self) -> str:
        """Time used, of how much, and what is left."""
        used = _time(self.elapsed_s)
        if self.budget_s is not None:
            used = f"{used} of {words.duration(self.budget_s)}"
        left = self.left_s()
        return used if left is None else f"{used}, about {_time(left)} left"

    def told(self, trial: Trial | None) -> str:
        """A trial's gain over the baseline, its drop and its latency."""
        if trial is None:
            return "none yet"
        latency_ms = _latency_ms(trial)
        parts = [words.latency(latency_ms)]
        before = _latency_ms(self.baseline) if self.baseline else None
        if before and latency_ms and trial is not self.baseline:
            told = words.about if _is_estimated(trial) else words.ratio
            parts.append(f"{told(before / latency_ms)} as fast as FP32")
        quality = on_validation(trial, self.metric)
        reference = on_validation(self.baseline, self.metric) if self.baseline else None
        if quality:
            parts.append(f"{metric_title(self.metric)} {words.percent(quality.value)}")
        if quality and reference and trial is not self.baseline:
            drop = reference.value - quality.value
            parts.append(f"{'drop' if drop >= 0 else 'gain'} {words.points(abs(drop))}")
        return ", ".join(parts)


class NullProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Does nothing."""

    def resumed(self, trials: Sequence[Trial], spent_s: float) -> None:
        """Does nothing."""

    def stage(self, trial_number: int, stage: str, fraction: float | None = None) -> None:
        """Does nothing."""

    def trial(self, trial: Trial) -> None:
        """Does nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""


class PlainProgress(NullProgress):
    """Lines, for a log."""

    def __init__(self, score: Score, stream: TextIO) -> None:
        self._score = score
        self._stream = stream
        self._lock = threading.Lock()
        self._said_at = score.clock()

    def resumed(self, trials: Sequence[Trial], spent_s: float) -> None:
        """One line, when there is something to go on with."""
        self._score.resume(trials, spent_s)
        if trials:
            self.note(f"goes on after {self._score.counted()}; {self._score.told_time()}")

    def stage(self, trial_number: int, stage: str, fraction: float | None = None) -> None:
        """A heartbeat, when nothing was said for a while."""
        if self._score.clock() - self._said_at >= HEARTBEAT_S:
            self.note(
                f"trial {trial_number}: {_stage(stage, fraction)}; {self._score.told_time()}"
            )

    def trial(self, trial: Trial) -> None:
        """One line."""
        self._score.add(trial)
        told = trial.reason if trial.state != "complete" else self._score.told(trial)
        if trial.state == "complete" and not trial.feasible:
            told = f"{told} (breaks {_broken(trial)})"
        self.note(
            f"{_name(trial)} {trial.state}"
            f"{', cached' if trial.cached else ''}: {told}; "
            f"{self._score.counted()}; {self._score.told_time()}"
        )

    def note(self, text: str) -> None:
        """One line."""
        with self._lock:
            self._said_at = self._score.clock()
            print(printable(text.replace("\u00a0", " ")), file=self._stream, flush=True)


class LiveProgress(NullProgress):
    """A display that is drawn over itself, for a terminal."""

    def __init__(self, score: Score, console: Console) -> None:
        self._score = score
        self._stages: dict[int, tuple[str, float | None]] = {}
        self._lock = threading.Lock()
        # Standard output is left alone: it belongs to --json.
        self._live = Live(
            console=console,
            get_renderable=self.draw,
            refresh_per_second=REDRAWS_PER_S,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wipes the display away."""
        self._live.stop()

    def resumed(self, trials: Sequence[Trial], spent_s: float) -> None:
        """Counts what was there before."""
        with self._lock:
            self._score.resume(trials, spent_s)

    def stage(self, trial_number: int, stage: str, fraction: float | None = None) -> None:
        """Shown until the trial is finished."""
        with self._lock:
            self._stages[trial_number] = (stage, fraction)

    def trial(self, trial: Trial) -> None:
        """Updates counts and the best; a failure is worth a line that stays."""
        with self._lock:
            self._score.add(trial)
            self._stages.pop(trial.number, None)
        if trial.state == "failed":
            self.note(
                f"trial {trial.number} ({words.origin(trial.origin)}) failed: {trial.reason}"
            )

    def note(self, text: str) -> None:
        """A line above the display, which stays."""
        self._live.console.print(printable(text), markup=False, highlight=False)

    def draw(self) -> RenderableType:
        """The display as it is now."""
        with self._lock:
            stages = sorted(self._stages.items())
            score = self._score
            lines = Table.grid(padding=(0, 2))
            lines.add_column(style="bold")
            lines.add_column()
            lines.add_row("best so far", Text(score.told(score.best), style="green"))
            lines.add_row("strongest simple", score.told(score.simple))
            lines.add_row("untouched FP32", score.told(score.baseline))
            lines.add_row("search", f"{score.counted()}; {score.told_time()}")
        running = Table.grid(padding=(0, 2))
        for number, (stage, fraction) in stages:
            bar = ProgressBar(total=1.0, completed=fraction or 0.0, width=24)
            running.add_row(f"trial {number}", bar if fraction is not None else "", stage)
        return Group(running, lines)


def show_progress(score: Score, stream: TextIO | None = None) -> LiveProgress | PlainProgress:
    """The display for a stream (standard error unless given): live on a terminal, else lines."""
    stream = stream or sys.stderr
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveProgress(score, console)
    return PlainProgress(score, stream)


def _time(seconds: float) -> str:
    return words.duration(seconds) if seconds >= 1 else "0 s"


def _latency_ms(trial: Trial) -> float | None:
    return value(figures_of(trial), "latency_ms")


def _is_estimated(trial: Trial) -> bool:
    return figures_of(trial)["latency_ms"].source == "estimated"


def _faster(best: Trial | None, other: Trial) -> Trial:
    if best is None:
        return other
    return min((best, other), key=lambda t: figures_of(t).value("latency_ms"))


def _broken(trial: Trial) -> str:
    return ", ".join(limit for limit, by in trial.violations.items() if by > 0)


def _name(trial: Trial) -> str:
    """``trial 7 (warm start)``, or ``finalist 7 (warm start) trained longer``."""
    named = f"{trial.number} ({words.origin(trial.origin)})"
    return f"finalist {named} trained longer" if trial.training else f"trial {named}"


def _stage(stage: str, fraction: float | None) -> str:
    return stage if fraction is None else f"{stage}, {fraction:.0%}"
