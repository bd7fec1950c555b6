"""Accuracy of the exported file, and what changed against the baseline on the same images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from evaluators.evaluator import EvaluationContext
from evaluators.measurement import Measurement
from evaluators.runtimes.onnxruntime import logits
from evaluators.tasks.drop import metric_drop_bound
from evaluators.tasks.metrics import METRICS


class Accuracy:
    """The metric, ``drop`` against the baseline with its bound, and per-class figures."""

    name = "accuracy"
    cheap = False

    def applies(self, context: EvaluationContext) -> bool:
        """Always, given images."""
        return len(context.images) > 0

    def evaluate(self, model: Path, context: EvaluationContext) -> tuple[Measurement, ...]:
        """The metric on the context's images; ``detail`` has what each class gained or lost."""
        outputs = logits(model, context.images, context.profile, context.threads)
        predicted = outputs.argmax(axis=1)
        return score(predicted, context)


EVALUATOR = Accuracy()


def score(predicted: NDArray[np.int64], context: EvaluationContext) -> tuple[Measurement, ...]:
    """Figures of predicted classes (N,) on the context's images."""
    metric = METRICS[context.metric]
    value = metric(context.labels, predicted)
    how = f"onnxruntime {ort.__version__} on {len(context.labels)} images"
    detail: dict[str, Any] = {"images": len(context.labels)}
    detail["per_class"] = _per_class(context.labels, predicted, context.baseline_predictions)
    found = [
        Measurement(context.metric, value, "", "measured", how, detail=detail, repeatable=True)
    ]
    if context.baseline_predictions is not None:
        bound = metric_drop_bound(
            context.metric,
            context.labels,
            context.baseline_predictions,
            predicted,
            context.confidence,
        )
        paired = asdict(bound)
        at = f"{how}, paired with the baseline"
        shown = f"{at}; one-sided at {context.confidence:g}, {bound.method}"
        found += [
            Measurement("drop", bound.drop, "", "measured", at, detail=paired, repeatable=True),
            Measurement("drop_bound", bound.bound, "", "measured", shown, repeatable=True),
        ]
    return tuple(found)


def _per_class(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    baseline: NDArray[np.int64] | None,
) -> dict[str, dict[str, float | int]]:
    """By class index: images, the share that is right, and that share's change."""
    rows: dict[str, dict[str, float | int]] = {}
    for c in np.unique(labels):
        here = labels == c
        recall = float(np.mean(predicted[here] == c))
        rows[str(c)] = {"images": int(here.sum()), "accuracy": recall}
        if baseline is not None:
            rows[str(c)]["change"] = recall - float(np.mean(baseline[here] == c))
    return rows
