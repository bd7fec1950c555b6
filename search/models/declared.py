"""What a model's source says about the input that its usual weights were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Declared:
    """Height and width, and mean and standard deviation of each channel of pixels in 0..1."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Brought:
    """What a source has beside the architecture: trained weights, and what goes with them.

    ``size`` is the only height and width that it takes, None where it takes any; ``note`` is for
    the person; ``spec`` is what finds it from anywhere.
    """

    weights: Mapping[str, torch.Tensor]
    size: tuple[int, int] | None
    note: str
    spec: str
