"""A machine whose speed changes, for measuring without a clock: it stands in for the agent.

The figures are those of a virtual machine of two cores that was recorded in rounds of 20 ms: a
file in the nearest cache takes 1.28 times as long while the other thread of its core is in use,
for some five seconds at a time, one in the last cache 1.13 times; a neighbor that uses the
memory slows only the second, and interrupts half of its runs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

OPEN_S = 0.003
RUNS = 12  # that a block answers with; it lasts as long as asked


@dataclass(frozen=True)
class SimulatedFile:
    """A quiet latency, and how much each kind of trouble slows it."""

    quiet_ms: float
    slow_mode: float
    neighbor: float
    drift: float  # standard deviation of the logarithm of its slow drift
    lost_share: float = 0.0  # of runs, beside the neighbor


class SimulatedMachine:
    """Answers what ``evaluators.latency.host`` asks of an agent; time passes as it does.

    A file on disk holds the name of its simulated file, so that a copy runs as the original.
    """

    def __init__(
        self,
        files: dict[str, SimulatedFile],
        seed: int,
        neighbor: bool = False,
        mode_s: float = 4.0,
        slow_share: float = 0.5,
    ) -> None:
        self.files = files
        self.neighbor = neighbor
        self.about = {"onnxruntime": "0", "cpu": "simulated", "cores": 1}
        self.now_s = 0.0
        self._rng = np.random.default_rng(seed)
        self._mode_s, self._slow_share = mode_s, slow_share
        self._slow = bool(self._rng.random() < slow_share)
        self._until_s = 0.0
        self._drifts = {name: file.drift * self._rng.normal() for name, file in files.items()}
        self._open: dict[int, str] = {}

    def wait(self, seconds: float) -> None:
        """Time passes: the clock changes its mode, and every file drifts."""
        self.now_s += seconds
        while self.now_s >= self._until_s:
            self._slow = bool(self._rng.random() < self._slow_share)
            self._until_s += float(self._rng.exponential(self._mode_s))
        keeps = math.exp(-seconds / 20)
        for name, file in self.files.items():
            fresh = file.drift * math.sqrt(1 - keeps**2) * self._rng.normal()
            self._drifts[name] = self._drifts[name] * keeps + fresh

    @contextlib.contextmanager
    def opened(self, model: str, threads: int) -> Iterator[int]:
        number = max(self._open, default=0) + 1
        self._open[number] = Path(model).read_text()
        self.wait(OPEN_S)
        yield number
        del self._open[number]

    def ask(self, op: str, timeout_s: float = 0.0, **fields: Any) -> dict[str, Any]:
        if op == "environment":
            busy_s = self.now_s if self.neighbor else 0.0
            return {"busy_s": busy_s, "steal_s": 0.0, "own_s": 0.0}
        name = self._open[fields["session"]]
        file = self.files[name]
        mean_ms = file.quiet_ms * math.exp(abs(self._drifts[name]))
        if self._slow:
            mean_ms *= file.slow_mode * math.exp(0.02 * self._rng.normal())
        if self.neighbor:
            mean_ms *= 1 + (file.neighbor - 1) * self._rng.uniform(0.5, 1.5)
        work_ms = mean_ms * np.exp(0.01 * self._rng.normal(size=RUNS))
        lost = self._rng.random(RUNS) < (file.lost_share if self.neighbor else 0.0)
        self.wait(max(fields["min_ms"], fields["min_runs"] * mean_ms) / 1e3)
        return {
            "times_ms": list(np.where(lost, work_ms * 2, work_ms)),
            "cpu_ms": list(work_ms * 0.99),
            "interrupted": [int(each) for each in lost],
            "stride": 1,
        }
