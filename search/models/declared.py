"""What a model's source says about the input that its usual weights were trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Declared:
    """Height and width, and mean and standard deviation of each channel of pixels in 0..1."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
