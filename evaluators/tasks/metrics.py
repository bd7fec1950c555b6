"""How good predicted classes are. Larger is better; all lie in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

Classes = NDArray[np.int64]


def accuracy(labels: Classes, predicted: Classes) -> float:
    """Share of images whose class is right."""
    return float(np.mean(labels == predicted))


def balanced_accuracy(labels: Classes, predicted: Classes) -> float:
    """Mean over the classes of the share of the class's images that are right."""
    return float(np.mean([np.mean(predicted[labels == c] == c) for c in np.unique(labels)]))


def f1(labels: Classes, predicted: Classes) -> float:
    """F1 of each class that occurs, averaged over the classes (macro)."""
    return float(
        f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0)
    )


METRICS: Mapping[str, Callable[[Classes, Classes], float]] = {
    "accuracy": accuracy,
    "agreement": accuracy,  # labels are the baseline's own predictions
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
}
