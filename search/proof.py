"""Whether a drop is shown, not hoped: bounds on paired differences, and who is tested in turn.

A *drop* is the baseline's score minus the candidate's on the same images; a gain is a negative
drop. A bound is one-sided: over repetitions, the true drop lies above it in at most
``1 - confidence`` of them. A finalist is *proved* when its bound on the test split is at most
the limit. How and why is in ``docs/proof.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse, special, stats

Metric = Literal["accuracy", "balanced_accuracy", "f1", "agreement"]
Method = Literal["exact", "score", "clopper-pearson", "bootstrap"]
Classes = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
P = TypeVar("P")

# The share of the error allowance that confines the nuisance parameter (Berger & Boos 1994).
NUISANCE_SHARE = 0.02
# Most gained images that are plausible, up to which the exact bound takes about a second at most.
# With more than that the score bound agrees with it to about one percent.
EXACT_GAINED = 1_000
# Grid step of the nuisance parameter, in units of sqrt(gained images). The supremum found is
# within 1e-5 of that of a grid ten times finer, over 300 random outcomes of 5 to 1500 images.
NUISANCE_STEP = 0.05
RESAMPLES = 20_000


@dataclass(frozen=True)
class DropBound:
    """A drop in a score and its one-sided upper bound, as fractions (0.03 is three points).

    ``lost`` images went from right to wrong, ``gained`` from wrong to right, out of ``images``.
    """

    drop: float
    bound: float
    confidence: float
    images: int
    lost: int
    gained: int
    method: Method

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

    Exact (see ``_exact_bound``) wherever that takes less than about a second, Tango's score
    bound where so many images were gained that the two agree.
    """
    most_gained = _most_gained(gained, images, confidence)
    exact = images * most_gained <= EXACT_GAINED
    bound = (_exact_bound if exact else _score_bound)(lost, gained, images, confidence)
    drop = (lost - gained) / images
    method: Method = "exact" if exact else "score"
    return DropBound(drop, bound, confidence, images, lost, gained, method)


def metric_drop_bound(
    metric: Metric,
    labels: Classes,
    baseline: Classes,
    candidate: Classes,
    confidence: float,
    seed: int = 0,
) -> DropBound:
    """The drop in any metric, from labels and both models' predicted classes, each (n,).

    ``balanced_accuracy`` is the mean recall and ``f1`` the mean F1 over the classes that occur
    in ``labels``. The drop in ``agreement`` is the share of images on which the candidate
    departs from the baseline, right or wrong; labels don't matter to it. ``seed`` matters only
    to the two bounds that resample.

    Raises:
        ValueError: the arrays differ in shape, or are empty.
    """
    _check_paired(labels, baseline)
    _check_paired(labels, candidate)
    if metric == "accuracy":
        return drop_bound(baseline == labels, candidate == labels, confidence)
    if metric == "agreement":
        return _agreement_bound(int(np.sum(baseline != candidate)), labels.size, confidence)
    return _bootstrap_bound(
        _recall if metric == "balanced_accuracy" else _f1,
        labels,
        baseline,
        candidate,
        confidence,
        seed,
    )


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
        upper = _score_bound(lost, gained, images, bound.confidence)
        return upper - float(lost - gained) / float(images)

    wanted = (max_drop - bound.drop) / (bound.bound - bound.drop) * width(1)
    most = 2.0
    while width(most) > wanted:
        most *= 2
    factor = float(optimize.brentq(lambda f: width(f) - wanted, most / 2, most, xtol=1e-6))
    return ceil(bound.images * factor)


@dataclass(frozen=True)
class Finalist(Generic[P]):
    """A candidate for the proof with what is known of it *without* the test split."""

    payload: P
    latency_ms: float
    validation: DropBound


@dataclass(frozen=True)
class Tested(Generic[P]):
    """A finalist and its bound on the test split."""

    finalist: Finalist[P]
    test: DropBound


@dataclass(frozen=True)
class Proof(Generic[P]):
    """Which finalists are proved, each faster than the one before it.

    ``failed`` is the first whose bound exceeded the limit; ``untested`` come after it.
    """

    max_drop: float
    proved: tuple[Tested[P], ...]
    failed: Tested[P] | None
    untested: tuple[Finalist[P], ...]

    @property
    def winner(self) -> Tested[P] | None:
        """The fastest finalist that is proved, or None."""
        return self.proved[-1] if self.proved else None


def safest_first(finalists: Iterable[Finalist[P]]) -> tuple[Finalist[P], ...]:
    """Safest first by the bound on the validation split, and each next one faster.

    A finalist that is no faster than a safer one could not win, and its failure would stop the
    sequence, so that it is left out. Of equally safe ones the slower comes first.
    """
    order: list[Finalist[P]] = []
    for finalist in sorted(finalists, key=lambda f: (f.validation.bound, -f.latency_ms)):
        if not order or finalist.latency_ms < order[-1].latency_ms:
            order.append(finalist)
    return tuple(order)


def prove(
    finalists: Iterable[Finalist[P]], test: Callable[[P], DropBound], max_drop: float
) -> Proof[P]:
    """Tests finalists in ``safest_first`` until one fails: fixed-sequence testing.

    Because the order is fixed before the test split is seen and testing stops at the first
    failure, each test may use the whole error allowance: some finalist whose true drop exceeds
    the limit is proved with probability at most ``1 - confidence``, however many there are
    (Maurer, Hothorn & Lehmacher 1995). ``test`` gives a finalist's bound on the test split; it
    is asked only for those whose turn comes.
    """
    order = safest_first(finalists)
    proved: list[Tested[P]] = []
    for position, finalist in enumerate(order):
        tested = Tested(finalist, test(finalist.payload))
        if not tested.test.shows(max_drop):
            return Proof(max_drop, tuple(proved), tested, order[position + 1 :])
        proved.append(tested)
    return Proof(max_drop, tuple(proved), None, ())


def _check_paired(one: NDArray[Any], other: NDArray[Any]) -> None:
    if one.ndim != 1 or one.shape != other.shape or not one.size:
        raise ValueError(
            "a paired comparison needs two arrays of shape (n,) with n >= 1 over the same "
            f"images, but got {one.shape} and {other.shape}"
        )


def _agreement_bound(lost: int, images: int, confidence: float) -> DropBound:
    """Clopper & Pearson (1934): agreement can only be lost, so that one binomial says it all."""
    bound = 1.0 if lost == images else float(stats.beta.ppf(confidence, lost + 1, images - lost))
    return DropBound(lost / images, bound, confidence, images, lost, 0, "clopper-pearson")


def _score_excess(lost: Any, gained: Any, images: float, drop: float, z: float) -> Any:
    """Positive while Tango's test at ``z`` standard errors can't exclude ``drop``; vectorized.

    Tango, Statistics in Medicine 17, 1998: the observed difference in images, less the expected
    one, plus z standard errors, the rate of gains being its maximum-likelihood estimate under
    ``drop``.
    """
    b = (2 * images - lost + gained) * drop - lost - gained
    c = -gained * drop * (1 - drop)
    gain_rate = (np.sqrt(np.maximum(b * b - 8 * images * c, 0)) - b) / (4 * images)
    variance = images * np.maximum(2 * gain_rate + drop * (1 - drop), 0)
    return lost - gained - images * drop + z * np.sqrt(variance)


def _score_bound(lost: float, gained: float, images: float, confidence: float) -> float:
    """The drop at which Tango's score test just rejects; counts need not be whole."""
    if lost == images:
        return 1.0
    z = float(special.ndtri(confidence))
    # At the observed drop itself the excess may vanish for another reason (no variance left).
    start = (lost - gained) / images + 1e-12
    return float(
        optimize.brentq(
            lambda drop: _score_excess(lost, gained, images, drop, z), start, 1.0, xtol=1e-12
        )
    )


def _most_gained(gained: int, images: int, confidence: float) -> float:
    """Upper limit of the rate of gains, exceeded with the share of the error set aside for it."""
    error = NUISANCE_SHARE * (1 - confidence)
    return float(stats.beta.ppf(1 - error, gained + 1, images - gained) if gained < images else 1)


def _exact_bound(lost: int, gained: int, images: int, confidence: float) -> float:
    """Exact unconditional upper bound of the drop.

    Outcomes are ordered by Tango's score bound; the bound is the largest drop under which an
    outcome as good as the observed one, or better, is not too improbable (Buehler 1957; for
    paired proportions Lloyd & Moldovan 2007, and Chan 1998 for the test). The rate of gains is
    a nuisance: the probability is its supremum over all rates that the observed gains leave
    plausible, whose small error is paid for (Berger & Boos 1994).
    """
    if lost == images:
        return 1.0
    most_gained = _most_gained(gained, images, confidence)
    score_bound = _score_bound(lost, gained, images, confidence)
    most_lost = _most_lost(score_bound, images, confidence)
    allowed = (1 - confidence) * (1 - NUISANCE_SHARE)

    def excess(drop: float) -> float:
        return _highest_probability(most_lost, drop, most_gained) - allowed

    # The root is mostly within an image or two of the score bound. Below -most_gained no
    # plausible rate is left; just there, all but surely, gains abound.
    low, high = (score_bound + image / images for image in (-1, 1))
    while low > -most_gained and excess(low) <= 0:
        low -= high - low
    while high < 1 and excess(high) >= 0:
        high += high - low
    low, high = max(low, -most_gained), min(high, 1.0)
    return float(optimize.brentq(excess, low, high, xtol=1e-7))


def _most_lost(score_bound: float, images: int, confidence: float) -> NDArray[np.int64]:
    """For 0..n gained images, the most lost ones whose score bound is at most ``score_bound``.

    Shape (n + 1,); -1 where even none is too many. By bisection, all at once.
    """
    z = float(special.ndtri(confidence))
    gained = np.arange(images + 1)
    low, high = np.full(images + 1, -1), images - gained
    while (low < high).any():
        middle = (low + high + 1) // 2
        # The observed outcome lies on the edge: rounding must not push it out.
        inside = _score_excess(middle, gained, images, score_bound, z) <= 1e-9 * images
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    return low


def _highest_probability(most_lost: NDArray[np.int64], drop: float, most_gained: float) -> float:
    """Supremum of ``_probabilities`` over the rates of gains that are possible and plausible.

    On a grid that is even in the root of the rate, where the spread of gains is even, and then
    on a finer one around the best.
    """
    images = most_lost.size - 1
    low, high = max(0.0, -drop), min((1 - drop) / 2, most_gained)
    if high < low:
        return 0.0
    highest = 0.0
    start, end = sqrt(low * images), sqrt(high * images)
    for points in (2 + int((end - start) / NUISANCE_STEP), 20):
        roots = np.linspace(start, end, points)
        rates = np.clip(roots**2 / images, low, high)  # rounding must not leave [0, 1]
        found = _probabilities(most_lost, drop, rates)
        best = int(np.argmax(found))
        highest = max(highest, float(found[best]))
        start, end = roots[max(0, best - 1)], roots[min(points - 1, best + 1)]
    return highest


def _probabilities(most_lost: NDArray[np.int64], drop: float, gain_rates: Floats) -> Floats:
    """Probability of at most ``most_lost[gained]`` lost images, for each rate of gains.

    (Lost, gained, unchanged) is trinomial: gained images are binomial, and lost ones binomial
    among the rest. Gains further than 7 standard deviations out are left out.
    """
    images = most_lost.size - 1
    rates = gain_rates[:, np.newaxis]
    reach = 12 + ceil(7 * sqrt(images * np.max(rates * (1 - rates), initial=0.0)))
    gained = np.floor(images * rates).astype(int) + np.arange(-reach, reach + 1)
    possible = np.clip(gained, 0, images)
    lost_among_rest = np.clip((rates + drop) / np.maximum(1 - rates, 1e-300), 0, 1)
    lost = most_lost[possible]
    rest = images - possible
    few = np.where(
        (lost >= 0) & (lost < rest), special.bdtr(lost, rest, lost_among_rest), lost >= 0
    )
    probabilities: Floats = (stats.binom.pmf(gained, images, rates) * few).sum(axis=1)
    return probabilities


# A score of each class from its hits, its images and how often it was predicted; all the same
# shape. Both are unchanged when all three are scaled, which the resampling relies on.
ClassScore = Callable[[Floats, Floats, Floats], Floats]


def _recall(hits: Floats, images: Floats, predicted: Floats) -> Floats:  # noqa: ARG001
    return hits / images


def _f1(hits: Floats, images: Floats, predicted: Floats) -> Floats:
    return 2 * hits / (images + predicted)


@dataclass(frozen=True)
class _Pairs:
    """Distinct (label, baseline's class, candidate's class), as indicators of shape (cells, k).

    Sums over cells of their weights give, for each class, what a ``ClassScore`` asks for.
    """

    images: sparse.csr_array
    baseline_hits: sparse.csr_array
    baseline_predicted: sparse.csr_array
    candidate_hits: sparse.csr_array
    candidate_predicted: sparse.csr_array

    @classmethod
    def of(cls, classes: Classes, cells: Classes) -> _Pairs:
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


def _bootstrap_bound(
    score: ClassScore,
    labels: Classes,
    baseline: Classes,
    candidate: Classes,
    confidence: float,
    seed: int,
) -> DropBound:
    """Quantile of the drop when the images, in pairs, are reweighted at random.

    The Bayesian bootstrap (Rubin 1981), which within each class is also the stratified one for
    mean recall. Resampling can't know of losses that no image happened to show, so that one
    more lost image is put where it does most harm. With one class and no gains the result is
    exactly Clopper & Pearson's; for classes of different sizes it is the device of Fay & Feuer
    (1997), and for losses less gains that of Fay, Proschan & Brittain (2015).
    """
    classes = np.unique(labels)
    cells, counts = np.unique(np.stack([labels, baseline, candidate]), axis=1, return_counts=True)
    drop = float(_Pairs.of(classes, cells).drops(score, counts[np.newaxis].astype(float))[0])

    cells = np.column_stack([cells, _most_harmful_loss(score, classes, cells, counts)])
    counts = np.append(counts, 1)
    pairs = _Pairs.of(classes, cells)
    rng = np.random.default_rng(seed)
    drops = np.concatenate(
        [
            pairs.drops(score, rng.standard_gamma(counts, size=(rows.size, counts.size)))
            for rows in np.array_split(np.arange(RESAMPLES), 1 + counts.size // 100)
        ]
    )
    bound = float(np.quantile(drops, confidence, method="higher"))
    right_before, right_after = baseline == labels, candidate == labels
    lost = int(np.sum(right_before & ~right_after))
    gained = int(np.sum(~right_before & right_after))
    return DropBound(drop, bound, confidence, labels.size, lost, gained, "bootstrap")


def _most_harmful_loss(
    score: ClassScore, classes: Classes, cells: Classes, counts: NDArray[np.intp]
) -> Classes:
    """The (label, baseline's, candidate's class) that raises the drop most when added once.

    Its label and the class it is mistaken for act on the drop separately.
    """

    def worst(options: Classes) -> Classes:
        pairs = _Pairs.of(classes, np.hstack([cells, options]))
        one_each = np.eye(options.shape[1])
        weights = np.hstack([np.tile(counts, (len(one_each), 1)), one_each])
        chosen: Classes = options[:, np.argmax(pairs.drops(score, weights))]
        return chosen

    elsewhere = np.full_like(classes, classes[-1] + 1)
    label = worst(np.stack([classes, classes, elsewhere]))[0]
    mistaken_for = np.append(classes[classes != label], elsewhere[0])
    same_label = np.full_like(mistaken_for, label)
    return worst(np.stack([same_label, same_label, mistaken_for]))
