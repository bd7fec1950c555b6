"""Cycles per event and thread factors from samples: bounded least squares of relative errors.

The bounds are what the core can do. A pull towards what is documented makes 25 published models
enough for 16 coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from hardware_profiles.events import FEATURES, INSTRUCTIONS, MISSES
from hardware_profiles.fitting.samples import Samples
from hardware_profiles.profile import Calibration

Array = NDArray[np.float64]

# Features with one coefficient: the same pipes at the same rate for vectors of the same width.
# (ncnn runs fp16 on a Cortex-A76, so that fmla32 is hardly seen there.)
_PAIRS = (("fmla32", "fmla16"), ("dot", "mmla"))
_COLUMNS: tuple[tuple[str, ...], ...] = (
    *_PAIRS,
    *((name,) for name in FEATURES if not any(name in pair for pair in _PAIRS)),
)
# Weights of the pulls, per model. With a third to three times as much, the held-out error moves
# by half a point on the Raspberry Pi 5 and by one on the 4B.
_PULL, _PULL_MISSES = 1.0, 0.1
# A class is pulled as if it took at least this share of the time, so that a rare one is not
# left to chance.
_LEAST_SHARE = 0.02
# Cycles. No class issues slower than this on these cores; about the latency of DRAM.
_INSTRUCTION_MAX, _MEMORY_MAX = 8.0, 300.0

# What thread factors are fitted for.
_PARTS: tuple[tuple[str, ...], ...] = (INSTRUCTIONS, ("l1_misses",), MISSES[1:])
_FACTOR_MAX = 4.0  # threads that disturb each other can be slower than one
_HUBER = 0.1  # beyond this relative error a model counts by its sign only


def fit_cycles(known: Samples, calibration: Calibration, factors: Array | None = None) -> Array:
    """Cycles per event by ``FEATURES``, shape (features,).

    Minimizes the mean of ``(events @ cycles / published - 1)^2`` plus two pulls, both in shares
    of the mean time: ``_PULL`` times the squared distance of each instruction class from what is
    documented for it times a factor that all share (instructions overlap), and ``_PULL_MISSES``
    times that of each kind of miss from what is documented for it.

    Args:
        known: the models to fit.
        calibration: bounds of the core, and what is documented.
        factors: shape (features,), of ``spread``; where the published latencies are of several
            threads, what these leave of each part.
    """
    events = known.events if factors is None else known.events * factors
    relative = events / known.cycles[:, np.newaxis]
    columns = np.column_stack(
        [relative[:, [FEATURES.index(name) for name in column]].sum(axis=1) for column in _COLUMNS]
    )
    documented = np.array([calibration.documented[column[0]] for column in _COLUMNS])
    misses = np.array([column[0] in MISSES for column in _COLUMNS])
    # Events a cycle in the mean model: how far a cycle more or less moves the mean estimate.
    weight = columns.mean(axis=0)
    weight[~misses] = np.maximum(weight[~misses], _LEAST_SHARE / documented[~misses])
    weight *= np.sqrt(np.where(misses, _PULL_MISSES, _PULL) * len(known.models))
    # Unknowns: the coefficient of each column, then the factor that instructions share.
    matrix = np.vstack(
        [
            np.column_stack([columns, np.zeros(len(columns))]),
            np.column_stack([np.diag(weight), np.where(misses, 0.0, -weight * documented)]),
        ]
    )
    wanted = np.concatenate([np.ones(len(columns)), np.where(misses, weight * documented, 0.0)])
    low, high = _bounds(calibration)
    solved = lsq_linear(
        matrix, wanted, bounds=(np.append(low, 0), np.append(high, np.inf)), method="bvls"
    ).x
    return _by_feature(dict(zip(_COLUMNS, solved, strict=False)))


def fit_factors(known: Samples, cycles: Array, threads: int) -> Array:
    """What ``threads`` threads leave of instructions, L1 misses and memory misses, shape (3,).

    Least squares of relative errors with Huber's weights, iterated; no part is split better
    than evenly.
    """
    parts = np.column_stack(
        [
            known.events[:, chosen] @ cycles[chosen] / known.cycles
            for chosen in ([FEATURES.index(name) for name in part] for part in _PARTS)
        ]
    )
    weights, factors = np.ones(len(known.models)), np.ones(len(_PARTS))
    for _ in range(20):
        factors = lsq_linear(
            parts * weights[:, np.newaxis],
            weights,
            bounds=(1 / threads, _FACTOR_MAX),
            method="bvls",
        ).x
        weights = np.sqrt(_HUBER / np.maximum(np.abs(parts @ factors - 1), _HUBER))
    return np.asarray(factors)


def spread(factors: Array) -> Array:
    """Factors of the three parts (shape (3,)) as factors of the features, shape (features,)."""
    return _by_feature(dict(zip(_PARTS, factors, strict=True)))


def _by_feature(values: Mapping[tuple[str, ...], float]) -> Array:
    single = {name: value for names, value in values.items() for name in names}
    return np.array([single[name] for name in FEATURES])


def _bounds(calibration: Calibration) -> tuple[Array, Array]:
    """Lowest and highest cycles of the columns.

    Every instruction takes its share of the issue width, whatever runs beside it.
    """
    limits = {
        **dict.fromkeys(INSTRUCTIONS, (1 / calibration.issue_width, _INSTRUCTION_MAX)),
        **dict.fromkeys(MISSES, (0.0, _MEMORY_MAX)),
        "l1_misses": (0.0, calibration.l1_miss_max),
    }
    low, high = zip(*(limits[column[0]] for column in _COLUMNS), strict=True)
    return np.array(low), np.array(high)
