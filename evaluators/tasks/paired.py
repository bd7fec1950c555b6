"""Upper bounds of a paired difference of two proportions, from counts.

Out of ``images``, ``lost`` went from right to wrong and ``gained`` from wrong to right; the drop
is the rate of losses less that of gains. All bounds are one-sided. ``docs/proof.md`` says why
these, with their error rates.
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

# The share of the error allowance that confines the nuisance parameter (Berger & Boos 1994).
NUISANCE_SHARE = 0.02
# Most gained images that are plausible, up to which the exact bound takes about a second at most.
# With more than that the score bound agrees with it to about one percent.
EXACT_GAINED = 1_000
# Grid step of the nuisance parameter, in units of sqrt(gained images). The supremum found is
# within 1e-5 of that of a grid ten times finer, over 300 random outcomes of 5 to 1500 images.
NUISANCE_STEP = 0.05


def binomial_bound(lost: int, images: int, confidence: float) -> float:
    """Clopper & Pearson (1934): for what can only be lost, so that one binomial says it all."""
    return 1.0 if lost == images else float(stats.beta.ppf(confidence, lost + 1, images - lost))


def exact_is_quick(gained: int, images: int, confidence: float) -> bool:
    """Whether ``exact_bound`` takes about a second at most."""
    return images * _most_gained(gained, images, confidence) <= EXACT_GAINED


def score_bound(lost: float, gained: float, images: float, confidence: float) -> float:
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


def exact_bound(lost: int, gained: int, images: int, confidence: float) -> float:
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
    order = score_bound(lost, gained, images, confidence)
    most_lost = _most_lost(order, images, confidence)
    allowed = (1 - confidence) * (1 - NUISANCE_SHARE)

    def excess(drop: float) -> float:
        return _highest_probability(most_lost, drop, most_gained) - allowed

    # The root is mostly within an image or two of the score bound. Below -most_gained no
    # plausible rate is left; just there, all but surely, gains abound.
    low, high = (order + image / images for image in (-1, 1))
    while low > -most_gained and excess(low) <= 0:
        low -= high - low
    while high < 1 and excess(high) >= 0:
        high += high - low
    low, high = max(low, -most_gained), min(high, 1.0)
    return float(optimize.brentq(excess, low, high, xtol=1e-7))


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


def _most_gained(gained: int, images: int, confidence: float) -> float:
    """Upper limit of the rate of gains, exceeded with the share of the error set aside for it."""
    error = NUISANCE_SHARE * (1 - confidence)
    return float(stats.beta.ppf(1 - error, gained + 1, images - gained) if gained < images else 1)


def _most_lost(order: float, images: int, confidence: float) -> NDArray[np.int64]:
    """For 0..n gained images, the most lost ones whose score bound is at most ``order``.

    Shape (n + 1,); -1 where even none is too many. By bisection, all at once.
    """
    z = float(special.ndtri(confidence))
    gained = np.arange(images + 1)
    low, high = np.full(images + 1, -1), images - gained
    while (low < high).any():
        middle = (low + high + 1) // 2
        # The observed outcome lies on the edge: rounding must not push it out.
        inside = _score_excess(middle, gained, images, order, z) <= 1e-9 * images
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
