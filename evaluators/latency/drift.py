"""How much a machine's speed changes from one measurement to the next.

No interval of one measurement can know that: what else runs on the machine changes within
minutes, and a large file suffers more from it than a small one, so that not even the ratio is
safe. But the baseline is measured beside every candidate, and always is the same file.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable

import numpy as np

REMEMBERED = 10  # measurements
# What is believed before anything is known, worth two measurements.
PRIOR_WEIGHT = 2
PRIOR_QUIET, PRIOR_NOISY = 0.01, 0.05


class DriftLog:
    """What one unchanging file took in each measurement of this process."""

    def __init__(self) -> None:
        self._logs: dict[Hashable, deque[tuple[float, bool]]] = {}

    def add(self, file: Hashable, p50_ms: float, noisy: bool) -> float:
        """Remembers one more measurement; the standard deviation of its logarithm so far.

        A quiet measurement is compared with other quiet ones, a noisy one with all.
        """
        log = self._logs.setdefault(file, deque(maxlen=REMEMBERED))
        log.append((math.log(p50_ms), noisy))
        comparable = np.asarray([value for value, other in log if noisy or not other])
        prior = PRIOR_NOISY if noisy else PRIOR_QUIET
        squares = float(np.sum((comparable - comparable.mean()) ** 2))
        freedom = PRIOR_WEIGHT + len(comparable) - 1
        return math.sqrt((PRIOR_WEIGHT * prior**2 + squares) / freedom)
