"""Published latencies of one board beside the counts of the same models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.counts import features
from hardware_profiles.events import FEATURES
from hardware_profiles.fitting.tables import published_latencies, shipped_counts
from hardware_profiles.profile import Calibration, CountModel, HardwareProfile, ProfileError

_FEWEST = 10
# A mean above this multiple of its minimum was disturbed, by heat or another program.
_DISTURBED = 1.5
# Models of the benchmark that share an architecture; the others are families of their own.
_FAMILIES: Mapping[str, str] = {
    "squeezenet_ssd": "squeezenet",
    "mobilenet_ssd": "mobilenet",
    "mobilenet_yolo": "mobilenet",
    "mobilenetv2_yolov3": "mobilenet_v2",
    "efficientnetv2_b0": "efficientnet_b0",
    "yolo-fastestv2": "yolo-fastest-1.1",
    "FastestDet": "yolo-fastest-1.1",
}


def family(model: str) -> str:
    """The architecture family of a published model; int8 belongs to its float model's."""
    base = model.removesuffix("_int8")
    return _FAMILIES.get(base, base)


@dataclass(frozen=True)
class Samples:
    """Models of one board at one thread count.

    ``events`` is (models, features) by ``FEATURES``; ``cycles`` is (models,): the published
    latency times the clock.
    """

    models: tuple[str, ...]
    events: NDArray[np.float64]
    cycles: NDArray[np.float64]

    @property
    def families(self) -> NDArray[np.str_]:
        """Family of each model, shape (models,)."""
        return np.array([family(model) for model in self.models])

    def take(self, chosen: NDArray[np.bool_]) -> Samples:
        """The samples where ``chosen`` (shape (models,)) is true."""
        models = tuple(m for m, kept in zip(self.models, chosen, strict=True) if kept)
        return Samples(models, self.events[chosen], self.cycles[chosen])


def published_samples(profile: HardwareProfile, model: CountModel, threads: int) -> Samples:
    """What is published for the board that ``model`` is fitted on, where there are counts.

    Raises:
        ProfileError: ``model`` says no board, or fewer than ten models are published for it.
    """
    device = calibration_of(profile, model).device
    counted = {
        row.model: features(row.counts, model.last_level)
        for row in shipped_counts()
        if row.qemu_cpu == model.qemu_cpu and row.runtime.startswith("ncnn")
    }
    rows = [
        row
        for row in published_latencies()
        if (row.device, row.threads) == (device, threads)
        and row.model in counted
        and row.latency_ms < _DISTURBED * row.latency_min_ms
    ]
    if len(rows) < _FEWEST:
        raise ProfileError(
            f"a fit needs at least {_FEWEST} published models with counts, but {device!r} at "
            f"{threads} thread(s) has {len(rows)} in published_latencies.csv"
        )
    return Samples(
        models=tuple(row.model for row in rows),
        events=np.array([[counted[row.model][name] for name in FEATURES] for row in rows]),
        cycles=np.array([row.latency_ms * profile.cpu.ghz * 1e6 for row in rows]),
    )


def calibration_of(profile: HardwareProfile, model: CountModel) -> Calibration:
    """What the coefficients are fitted on.

    Raises:
        ProfileError: the profile has no [counts.fit] section.
    """
    if model.fit is None:
        raise ProfileError(
            f"a fit needs a profile with a [counts.fit] section, but {profile.name!r} has none"
        )
    return model.fit
