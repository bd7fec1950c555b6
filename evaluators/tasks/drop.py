"""How far accuracy may really have dropped: one-sided bounds on paired differences.

A *drop* is the baseline's score minus the candidate's on the same images; a gain is a negative
drop. A bound is one-sided: over repetitions, the true drop lies above it in at most
``1 - confidence`` of them. How and why is in ``docs/proof.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from evaluators.tasks.grouped import grouped_drop, grouped_share_drop
from evaluators.tasks.paired import binomial_bound, exact_bound, exact_is_quick, score_bound
from evaluators.tasks.resampled import Classes, f1, recall, resampled_drop

Metric = Literal["accuracy", "balanced_accuracy", "f1", "agreement"]
Method = Literal["exact", "score", "clopper-pearson", "bootstrap", "group bootstrap"]


@dataclass(frozen=True)
class DropBound:
    """A drop in a score and its one-sided upper bound, as fractions (0.03 is three points).

    ``lost`` images went from right to wrong, ``gained`` from wrong to right, out of ``images``.
    ``groups``: how many groups of images that are not independent there were, where known.
    """

    drop: float
    bound: float
    confidence: float
    images: int
    lost: int
    gained: int
    method: Method
    groups: int | None = None

    def shows(self, max_drop: float) -> bool:
        """Whether the drop is shown to be at most ``max_drop``."""
        return self.bound <= max_drop


def drop_bound(
    baseline_correct: NDArray[np.bool_], candidate_correct: NDArray[np.bool_], confidence: float
) -> DropBound:
    """The drop in accuracy between two models on the same images, both arrays of shape (n,).

    Raises:
        ValueError: the arrays differ in shape, or are empty.
    """
    _check_paired(baseline_correct, candidate_correct)
    lost = int(np.sum(baseline_correct & ~candidate_correct))
    gained = int(np.sum(~baseline_correct & candidate_correct))
    return drop_bound_of_counts(lost, gained, baseline_correct.size, confidence)


def drop_bound_of_counts(lost: int, gained: int, images: int, confidence: float) -> DropBound:
    """The drop in accuracy when ``lost`` and ``gained`` out of ``images`` changed sides.

    Exact wherever that takes less than about a second, Tango's score bound where so many images
    were gained that the two agree.
    """
    drop = (lost - gained) / images
    if exact_is_quick(gained, images, confidence):
        bound = exact_bound(lost, gained, images, confidence)
        return DropBound(drop, bound, confidence, images, lost, gained, "exact")
    bound = score_bound(lost, gained, images, confidence)
    return DropBound(drop, bound, confidence, images, lost, gained, "score")


def metric_drop_bound(
    metric: Metric,
    labels: Classes,
    baseline: Classes,
    candidate: Classes,
    confidence: float,
    seed: int = 0,
    groups: Classes | None = None,
) -> DropBound:
    """The drop in any metric, from labels and both models' predicted classes, each (n,).

    ``balanced_accuracy`` is the mean recall and ``f1`` the mean F1 over the classes that occur
    in ``labels``. The drop in ``agreement`` is the share of images on which the candidate
    departs from the baseline, right or wrong; labels don't matter to it. ``seed`` matters only
    to the bounds that resample. Images that share a number in ``groups``, (n,), are resampled
    together.

    Raises:
        ValueError: the arrays differ in shape, or are empty.
    """
    _check_paired(labels, baseline)
    _check_paired(labels, candidate)
    if groups is not None:
        return _grouped(metric, labels, baseline, candidate, confidence, seed, groups)
    if metric == "accuracy":
        return drop_bound(baseline == labels, candidate == labels, confidence)
    if metric == "agreement":
        lost = int(np.sum(baseline != candidate))
        bound = binomial_bound(lost, labels.size, confidence)
        drop = lost / labels.size
        return DropBound(drop, bound, confidence, labels.size, lost, 0, "clopper-pearson")
    score = recall if metric == "balanced_accuracy" else f1
    drop, bound = resampled_drop(score, labels, baseline, candidate, confidence, seed)
    right_before, right_after = baseline == labels, candidate == labels
    lost = int(np.sum(right_before & ~right_after))
    gained = int(np.sum(~right_before & right_after))
    return DropBound(drop, bound, confidence, labels.size, lost, gained, "bootstrap")


def _grouped(
    metric: Metric,
    labels: Classes,
    baseline: Classes,
    candidate: Classes,
    confidence: float,
    seed: int,
    groups: Classes,
) -> DropBound:
    if metric == "agreement":
        lost, gained = baseline != candidate, np.zeros(labels.size, np.bool_)
    else:
        right_before, right_after = baseline == labels, candidate == labels
        lost, gained = right_before & ~right_after, ~right_before & right_after
    if metric in ("accuracy", "agreement"):
        drop, bound = grouped_share_drop(lost, gained, groups, confidence, seed)
    else:
        score = recall if metric == "balanced_accuracy" else f1
        drop, bound = grouped_drop(score, labels, baseline, candidate, groups, confidence, seed)
    counts = int(lost.sum()), int(gained.sum())
    number = len(np.unique(groups))
    return DropBound(drop, bound, confidence, labels.size, *counts, "group bootstrap", number)


def images_needed(bound: DropBound, max_drop: float) -> int | None:
    """About how many images would show a drop of at most ``max_drop`` at the same confidence.

    Supposes that the observed rates stay as they are. The distance from drop to bound is taken
    to shrink with the number of images as that of Tango's score bound does, from 1/n with no
    disagreement to 1/sqrt(n) with much. None when the observed drop itself is at or above the
    limit, where more images would not help.
    """
    if bound.shows(max_drop):
        return bound.images
    if bound.drop >= max_drop:
        return None
    counts = np.array([bound.lost, bound.gained, bound.images], dtype=float)

    def width(factor: float) -> float:
        lost, gained, images = counts * factor
        upper = score_bound(lost, gained, images, bound.confidence)
        return upper - float(lost - gained) / float(images)

    wanted = (max_drop - bound.drop) / (bound.bound - bound.drop) * width(1)
    most = 2.0
    while width(most) > wanted:
        most *= 2
    factor = float(optimize.brentq(lambda f: width(f) - wanted, most / 2, most, xtol=1e-6))
    return ceil(bound.images * factor)


def _check_paired(one: NDArray[Any], other: NDArray[Any]) -> None:
    if one.ndim != 1 or one.shape != other.shape or not one.size:
        raise ValueError(
            "a paired comparison needs two arrays of shape (n,) with n >= 1 over the same "
            f"images, but got {one.shape} and {other.shape}"
        )
