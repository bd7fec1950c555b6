"""Upper bound of a drop in a mean over classes, by resampling images with both predictions.

``docs/proof.md`` says why this one, with its error rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Classes = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]

RESAMPLES = 20_000

# A score of each class from its hits, its images and how often it was predicted; all the same
# shape. Both are unchanged when all three are scaled, which the resampling relies on.
ClassScore = Callable[[Floats, Floats, Floats], Floats]


def recall(hits: Floats, images: Floats, predicted: Floats) -> Floats:
    """Share of a class's images that are right."""
    return hits / images


def f1(hits: Floats, images: Floats, predicted: Floats) -> Floats:
    """Harmonic mean of a class's precision and recall."""
    return 2 * hits / (images + predicted)


@dataclass(frozen=True)
class Pairs:
    """Distinct (label, baseline's class, candidate's class), as indicators of shape (cells, k).

    Sums over cells of their weights give, for each class, what a ``ClassScore`` asks for.
    """

    images: sparse.csr_array
    baseline_hits: sparse.csr_array
    baseline_predicted: sparse.csr_array
    candidate_hits: sparse.csr_array
    candidate_predicted: sparse.csr_array

    @classmethod
    def of(cls, classes: Classes, cells: Classes) -> Pairs:
        """Indicators of ``cells``, shape (3, cells), over the sorted ``classes``, shape (k,)."""
        label, baseline, candidate = cells

        def indicator(predicted: Classes, where: NDArray[np.bool_]) -> sparse.csr_array:
            where = where & np.isin(predicted, classes)
            rows, columns = np.flatnonzero(where), np.searchsorted(classes, predicted[where])
            shape = (label.size, classes.size)
            return sparse.csr_array((np.ones(rows.size), (rows, columns)), shape=shape)

        everywhere = np.ones(label.size, dtype=bool)
        return cls(
            indicator(label, everywhere),
            indicator(label, baseline == label),
            indicator(baseline, everywhere),
            indicator(label, candidate == label),
            indicator(candidate, everywhere),
        )

    def drops(self, score: ClassScore, weights: Floats) -> Floats:
        """The drop in the mean score over classes, (r,), under each row of ``weights`` (r, m)."""
        images = weights @ self.images
        before = score(weights @ self.baseline_hits, images, weights @ self.baseline_predicted)
        after = score(weights @ self.candidate_hits, images, weights @ self.candidate_predicted)
        drops: Floats = (before - after).mean(axis=1)
        return drops


def resampled_drop(
    score: ClassScore,
    labels: Classes,
    baseline: Classes,
    candidate: Classes,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """The drop in the mean ``score`` of the classes in ``labels``, and its upper bound.

    The bound is the quantile of the drop when the images, in pairs, are reweighted at random:
    the Bayesian bootstrap (Rubin 1981), which for mean recall is stratified by class. It can't
    know of losses that no image happened to show, so that one more lost image is put where it
    does most harm. With one class and no gains the result is exactly Clopper & Pearson's; for
    classes of different sizes it is the device of Fay & Feuer (1997), and for losses less gains
    that of Fay, Proschan & Brittain (2015).
    """
    classes = np.unique(labels).astype(np.int64)
    images = np.stack([labels, baseline, candidate])
    cells, counts = np.unique(images, axis=1, return_counts=True)
    drop = float(Pairs.of(classes, cells).drops(score, counts[np.newaxis].astype(float))[0])

    cells = np.column_stack([cells, _most_harmful_loss(score, classes, cells, counts)])
    counts = np.append(counts, 1)
    pairs = Pairs.of(classes, cells)
    rng = np.random.default_rng(seed)
    drops = np.concatenate(
        [
            pairs.drops(score, rng.standard_gamma(counts, size=(rows.size, counts.size)))
            for rows in np.array_split(np.arange(RESAMPLES), 1 + counts.size // 100)
        ]
    )
    return drop, float(np.quantile(drops, confidence, method="higher"))


def _most_harmful_loss(
    score: ClassScore, classes: Classes, cells: Classes, counts: NDArray[np.intp]
) -> Classes:
    """The (label, baseline's, candidate's class) that raises the drop most when added once.

    Its label and the class it is mistaken for act on the drop separately.
    """

    def worst(options: Classes) -> Classes:
        pairs = Pairs.of(classes, np.hstack([cells, options]))
        one_each = np.eye(options.shape[1])
        weights = np.hstack([np.tile(counts, (len(one_each), 1)), one_each])
        chosen: Classes = options[:, np.argmax(pairs.drops(score, weights))]
        return chosen

    elsewhere = np.full_like(classes, classes[-1] + 1)
    label = worst(np.stack([classes, classes, elsewhere]))[0]
    mistaken_for = np.append(classes[classes != label], elsewhere[0])
    same_label = np.full_like(mistaken_for, label)
    return worst(np.stack([same_label, same_label, mistaken_for]))
