"""What the person and the device demand, and by how much an evaluation breaks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evaluators import Evaluation
from hardware_profiles import HardwareProfile

LEAST_DROP = 0.01


@dataclass(frozen=True)
class Limits:
    """What the person asked for. ``max_drop`` is an absolute difference of the metric."""

    max_drop: float
    confidence: float = 0.95
    max_latency_ms: float | None = None
    max_size_bytes: float | None = None
    max_memory_bytes: float | None = None
    require_proof: bool = False

    def ceilings(self, profile: HardwareProfile) -> Mapping[str, float]:
        """The largest allowed value of each limited figure, the device's own limits included."""
        memory = "peak_tensor_bytes" if profile.kind == "microcontroller" else "peak_memory_bytes"
        stated = [
            ("latency_ms", self.max_latency_ms),
            ("size_bytes", self.max_size_bytes),
            ("size_bytes", profile.limits.flash_bytes),
            (memory, self.max_memory_bytes),
            (memory, profile.limits.memory_bytes),
        ]
        found: dict[str, float] = {}
        for name, value in stated:
            if value is not None:
                found[name] = min(value, found.get(name, value))
        return found

    def violations(self, evaluation: Evaluation, profile: HardwareProfile) -> dict[str, float]:
        """For each limited figure that was evaluated, the excess as a share of the limit.

        At most zero where it is met. A drop counts in shares of its limit, or of one point where
        less is allowed: of nothing there are no shares.
        """
        found = {
            name: evaluation.value(name) / ceiling - 1
            for name, ceiling in self.ceilings(profile).items()
            if name in evaluation
        }
        if "drop" in evaluation:
            excess = evaluation.value("drop") - self.max_drop
            found["drop"] = excess / max(self.max_drop, LEAST_DROP)
        return found
