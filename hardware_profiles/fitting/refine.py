"""Shipped coefficients refined by a few measurements on one's own device.

Every estimate is a sum of parts (of a kind of work, in ms). First one factor scales all of
them, the geometric mean of measured over estimated: another clock, another board of the same
core. Then each part gets a factor of its own that is pulled towards that scale (ridge), since
a handful of models cannot carry more. How strong the pull is, leaving out one architecture at
a time decides; the stated error is of architectures left out of that decision, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr

Array = NDArray[np.float64]

# Weight of the pull per model; infinite leaves the scale alone.
PULLS = (np.inf, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_FAR = 3.0  # a part's factor stays within this of the scale


@dataclass(frozen=True)
class Factors:
    """What the parts are multiplied by, and the scale that they were pulled to."""

    scale: float
    parts: Array  # (parts,)


# Estimates of all models, (models,), with these factors.
Estimate = Callable[[Factors], Array]


@dataclass(frozen=True)
class Refined:
    """Factors from all models, with errors on architectures that were left out (in percent)."""

    factors: Factors
    pull: float
    error_pct: float
    largest_pct: float
    rank_correlation: float
    shipped_error_pct: float  # of the estimates as they were
    held_out_ms: Array  # (models,)


def refine(
    parts: Array, measured: Array, families: Sequence[str], estimate: Estimate | None = None
) -> Refined:
    """Factors for ``parts`` and their held-out error.

    Args:
        parts: estimated ms of each model by part, shape (models, parts), none negative.
        measured: ms, shape (models,).
        families: architecture of each model; its models are left out together.
        estimate: what the factors really do, where that is not quite the sum of the parts.

    Raises:
        ValueError: fewer than three architectures, which leave nothing to decide with.
    """
    names = np.asarray(families)
    if len(set(families)) < 3:
        raise ValueError(f"refining needs three architectures, but got {sorted(set(families))}")
    estimate = estimate or (lambda factors: parts @ factors.parts)
    held_out = np.empty(len(measured))
    for family in set(families):
        out = names == family
        pull = _best_pull(parts, measured, names, ~out, estimate)
        held_out[out] = estimate(_fit(parts[~out], measured[~out], pull))[out]
    errors = 100 * np.abs(held_out / measured - 1)
    shipped = 100 * np.abs(parts.sum(axis=1) / measured - 1)
    pull = _best_pull(parts, measured, names, np.ones(len(measured), bool), estimate)
    return Refined(
        factors=_fit(parts, measured, pull),
        pull=pull,
        error_pct=float(errors.mean()),
        largest_pct=float(errors.max()),
        rank_correlation=float(spearmanr(held_out, measured).statistic),
        shipped_error_pct=float(shipped.mean()),
        held_out_ms=held_out,
    )


def _best_pull(
    parts: Array,
    measured: Array,
    names: NDArray[np.str_],
    known: NDArray[np.bool_],
    estimate: Estimate,
) -> float:
    """The pull whose error on left-out architectures is smallest, by the known models alone."""

    def error(pull: float) -> float:
        errors: list[float] = []
        for family in np.unique(names[known]):
            out = known & (names == family)
            rest = known & ~out
            guess = estimate(_fit(parts[rest], measured[rest], pull))[out]
            errors.extend(np.abs(np.log(guess / measured[out])))
        return float(np.mean(errors))

    return min(PULLS, key=error)


def _fit(parts: Array, measured: Array, pull: float) -> Factors:
    """Least squares of relative errors, each part's factor pulled towards the scale."""
    scale = float(np.exp(np.mean(np.log(measured / parts.sum(axis=1)))))
    count = parts.shape[1]
    if np.isinf(pull):
        return Factors(scale, np.full(count, scale))
    relative = scale * parts / measured[:, np.newaxis]
    weight = np.sqrt(pull)
    solved = lsq_linear(
        np.vstack([relative / np.sqrt(len(measured)), weight * np.eye(count)]),
        np.concatenate([np.ones(len(measured)) / np.sqrt(len(measured)), np.full(count, weight)]),
        bounds=(1 / _FAR, _FAR),
    )
    return Factors(scale, scale * np.asarray(solved.x))
