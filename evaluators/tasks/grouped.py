"""Upper bound of a drop where images come in groups: of one patient, module or video.

Images of one group stand or fall together, so that a hundred of them may be worth one. It is
groups that are drawn: each gets a random weight (a Bayesian bootstrap, Rubin 1981, of groups: the
cluster bootstrap of Davison & Hinkley 1997, section 3.8), and the bound is a quantile of the drop.
As with single images, losses that no group happened to show are allowed for by one more group, as
large as the largest, that is lost as a whole where it does most harm. With groups of one image,
one class and no gains the result is Clopper & Pearson's bound.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evaluators.tasks.resampled import RESAMPLES, Classes, ClassScore, Floats, Pairs

WEIGHTS = 20_000_000  # at a time


def grouped_share_drop(
    lost: NDArray[np.bool_],
    gained: NDArray[np.bool_],
    groups: Classes,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """The drop in a share of images, and its bound; all arrays are (n,)."""
    _, number = np.unique(groups, return_inverse=True)
    sizes = np.bincount(number).astype(float)
    change = np.bincount(number, lost.astype(float) - gained.astype(float))
    drop = float(change.sum() / sizes.sum())
    # The group that nobody saw.
    sizes, change = np.append(sizes, sizes.max()), np.append(change, sizes.max())
    drops = np.concatenate(
        [(weights @ change) / (weights @ sizes) for weights in _weights(len(sizes), seed)]
    )
    return drop, float(np.quantile(drops, confidence, method="higher"))


def grouped_drop(
    score: ClassScore,
    labels: Classes,
    baseline: Classes,
    candidate: Classes,
    groups: Classes,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """The drop in the mean ``score`` of the classes in ``labels``, and its bound; arrays (n,)."""
    classes = np.unique(labels).astype(np.int64)
    cells, which = np.unique(np.stack([labels, baseline, candidate]), axis=1, return_inverse=True)
    _, number = np.unique(groups, return_inverse=True)
    # How many images of each cell a group has, (groups, cells).
    counts = np.zeros((number.max() + 1, cells.shape[1]))
    np.add.at(counts, (number, which.reshape(-1)), 1)
    drop = float(Pairs.of(classes, cells).drops(score, counts.sum(axis=0, keepdims=True))[0])

    nowhere = classes[-1] + 1
    worst = -np.inf
    for label in classes:
        largest = counts[:, cells[0] == label].sum(axis=1).max()
        unseen = np.array([[label], [label], [nowhere]], np.int64)
        pairs = Pairs.of(classes, np.hstack([cells, unseen]))
        more = np.zeros((len(counts) + 1, counts.shape[1] + 1))
        more[:-1, :-1] = counts
        more[-1, -1] = largest
        drops = np.concatenate(
            [pairs.drops(score, weights @ more) for weights in _weights(len(more), seed)]
        )
        worst = max(worst, float(np.quantile(drops, confidence, method="higher")))
    return drop, worst


def _weights(groups: int, seed: int) -> Iterator[Floats]:
    """Random weights of groups, (resamples, groups), in parts that fit into memory."""
    rng = np.random.default_rng(seed)
    parts = np.array_split(np.arange(RESAMPLES), 1 + groups * RESAMPLES // WEIGHTS)
    return (rng.standard_exponential((len(part), groups)) for part in parts)
