"""The seam: an evaluator looks at one exported file and says what it is worth."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from evaluators.measurement import Evaluation, Measurement
from evaluators.tasks.drop import Metric
from hardware_profiles import HardwareProfile

ENTRY_POINTS = "compression_search.evaluators"


@dataclass(frozen=True)
class EvaluationContext:
    """What evaluators may use. Nothing in it changes during a search.

    ``images`` are preprocessed, float32, (N, C, H, W); ``labels`` int64, (N,). Both are of the
    split that guides the search. A file may take smaller images: ``sessions.logits`` and
    ``resize.fitted`` heed that. ``baseline`` is the exported file of the untouched model and
    ``baseline_predictions`` its classes on ``images``, int64, (N,). ``device`` is a URL such as
    ``ssh://pi@board``, where the person gave one. ``scratch`` is a folder to write in.
    ``counted`` is False where there is no time to count on an emulated core.
    """

    profile: HardwareProfile
    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    scratch: Path
    baseline: Path | None = None
    baseline_predictions: NDArray[np.int64] | None = None
    device: str | None = None
    metric: Metric = "accuracy"
    confidence: float = 0.95  # of bounds
    threads: int = 1  # for answers; latencies are measured with the profile's
    counted: bool = True


@runtime_checkable
class Evaluator(Protocol):
    """One concern, one file. Instances hold no state and take no arguments.

    ``cheap`` says that the figures don't depend on trained weights, so that they can be had
    from an untrained export before any training.
    """

    name: str
    cheap: bool

    def applies(self, context: EvaluationContext) -> bool:
        """Whether this evaluator has something to say about files for this context."""
        ...

    def evaluate(self, model: Path, context: EvaluationContext) -> tuple[Measurement, ...]:
        """Figures about ``model``, an ONNX file with one input (batch, C, H, W)."""
        ...


@cache
def discover() -> tuple[Evaluator, ...]:
    """Every module here with an ``EVALUATOR``, and those of entry points."""
    import evaluators

    found: list[Any] = []
    for info in sorted(
        pkgutil.walk_packages(evaluators.__path__, "evaluators."), key=lambda i: i.name
    ):
        if info.name.endswith(".__main__"):
            continue
        module = importlib.import_module(info.name)
        if hasattr(module, "EVALUATOR"):
            found.append(module.EVALUATOR)
    found += [entry.load() for entry in entry_points(group=ENTRY_POINTS)]
    return tuple(found)


def evaluate(
    model: Path, context: EvaluationContext, evaluators: Iterable[Evaluator] | None = None
) -> Evaluation:
    """Runs every evaluator that applies (all discovered ones unless given) on one file."""
    chosen = discover() if evaluators is None else evaluators
    return Evaluation.of(
        measurement
        for evaluator in chosen
        if evaluator.applies(context)
        for measurement in evaluator.evaluate(model, context)
    )
