"""What measured latencies say about a profile: how much slower float and int8 are than it has it.

A profile is of a kind of processor, and a search runs on one machine. Where the profile favors
int8 by too much, the model's plans are not the fastest, and no latency limit brings that out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from scipy.optimize import nnls

from hardware_profiles import HardwareProfile
from hardware_profiles.profile import Kernel
from spaces.tracing.table import ShapeTable

FLOAT = 32  # bits; kernels of fewer are integer kernels
LEAST_PLANS = 4
PRIOR_STRENGTH = 0.02  # of the prior belief that float and int8 are slower alike
STEP = 1.05  # factors are powers of it: noise alone changes nothing


@dataclass(frozen=True)
class Speeds:
    """Times as long as a profile has it, for operators in float and in int8."""

    float32: float = 1.0
    int8: float = 1.0

    def of(self, profile: HardwareProfile) -> HardwareProfile:
        """The profile with kernels that are slower by so much."""
        factors = (self.int8, self.float32)
        kernels = tuple(_slower(each, factors[each.bits == FLOAT]) for each in profile.kernels)
        return replace(profile, kernels=kernels)


def speeds(seen: Sequence[tuple[tuple[float, float], float]]) -> Speeds:
    """Ridge regression of measured latencies on those of the profile, toward equal factors.

    Args:
        seen: for each plan its ``by_bits``, and its measured milliseconds.

    All as it is for fewer than four plans. Errors count relative to each plan's latency, since
    searches end among the fastest.
    """
    if len(seen) < LEAST_PLANS:
        return Speeds()
    shares = np.array([parts for parts, _ in seen])
    shares /= np.array([[measured_ms] for _, measured_ms in seen])
    alike = 1 / median(shares.sum(axis=1))
    prior = math.sqrt(PRIOR_STRENGTH * len(seen))
    found, _ = nnls(
        np.vstack([shares * alike, prior * np.eye(2)]),
        np.concatenate([np.ones(len(seen)), np.full(2, prior)]),
    )
    return Speeds(*(_rounded(max(each, STEP**-40) * alike) for each in found.tolist()))


def by_bits(table: ShapeTable, profile: HardwareProfile) -> tuple[float, float]:
    """A plan's milliseconds on float kernels of the profile and on integer ones."""
    found = [0.0, 0.0]
    for row, shape in table.shapes():
        kernel = profile.kernel(row.op, shape, row.bits)
        found[kernel.bits != FLOAT] += profile.cost(row.op, shape, row.bits)
    return found[0], found[1]


def _rounded(factor: float) -> float:
    return float(STEP ** round(math.log(factor, STEP)))


def _slower(kernel: Kernel, factor: float) -> Kernel:
    return replace(
        kernel,
        giga_per_s=kernel.giga_per_s / factor,
        overhead_us=kernel.overhead_us * factor,
        ns={name: each * factor for name, each in kernel.ns.items()},
    )
