"""How much faster a file may be than one measurement of it says.

A machine can sit in a slow mode for longer than a measurement takes: a clock with two
frequencies, or a neighbor on the other thread of the core, seen from inside a virtual machine as
nothing but slower runs. No interval from one such measurement can know it. But files are
measured again and again, the baseline beside every candidate, and each look at which a file was
as fast as ever makes a faster mode less likely.

Modes differ less in a ratio than in a time: not at all for two files that need the same of the
machine, most for one that fits in the nearest cache and one that does not. On a virtual machine
a neighbor made a network of 0.03 ms 1.28 times and one of 5 ms 1.13 times as slow, for five
seconds at a time, and one that used the memory only the second, by 1.05.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# What is believed possible before more is known, in the logarithm.
GAP = math.log(1.3)  # between two modes, of a time
RATIO_GAP = math.log(1.15)  # the same, of a ratio of unlike files
# Of such a ratio, however often the machine was looked at: from one quiet measurement to the
# next, and beside other processes.
QUIET_GAP, NOISY_GAP = math.log(1.03), math.log(1.08)
SLOW = 0.05  # a file that is so much slower than it has been is in a slow mode
LOOK_S = 5.0  # a mode lasts as long: what is nearer in time is the same look
UNLIKE = 8.0  # files that differ in latency by this factor have nothing in common
LEAST_UNLIKE = 0.05  # equal files still differ in where their weights lie


@dataclass(frozen=True)
class Seen:
    """A file's latency beside what it was at best."""

    now_ms: float
    best_ms: float
    looks: int  # at this file, at different times; 1 the first time

    @property
    def slowness(self) -> float:
        """Logarithm of now over best, 0 or more."""
        return math.log(self.now_ms / self.best_ms)

    @property
    def unseen(self) -> float:
        """Share of a gap between modes that may lie below what is seen now, 0 to 1.

        Every further look that finds nothing faster halves it.
        """
        return 1.0 if self.slowness > SLOW else 0.5 ** (self.looks - 1)


class BestLog:
    """What files took at best in the measurements of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._best: dict[Hashable, tuple[float, int, float]] = {}  # ms, looks, time of the last

    def add(self, file: Hashable, now_ms: float) -> Seen:
        """Remembers one more measurement of a file."""
        now_s = self._clock()
        best_ms, looks, last_s = self._best.get(file, (now_ms, 0, -math.inf))
        if now_s - last_s >= LOOK_S:
            looks, last_s = looks + 1, now_s
        best_ms = min(best_ms, now_ms)
        self._best[file] = best_ms, looks, last_s
        return Seen(now_ms, best_ms, looks)


def ratio_reach(ratio: float, seen: Seen, noisy: bool) -> float:
    """How far, in the logarithm, a ratio to the file ``seen`` may be from that of the fast mode.

    Both ways: the one file may suffer more from what goes on than the other, or less.
    """
    unlike = min(1.0, max(LEAST_UNLIKE, abs(math.log(ratio)) / math.log(UNLIKE)))
    always = NOISY_GAP if noisy else QUIET_GAP
    possible = max(RATIO_GAP * seen.unseen, seen.slowness, always)
    return unlike * possible
