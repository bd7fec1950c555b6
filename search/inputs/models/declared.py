"""What a model's source says about the input that its usual weights were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from search.inputs.data.photo import SQUASHED, Resize

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Declared:
    """How photos come to ``size``, (height, width), and are normalized.

    Mean and standard deviation of each channel are of pixels in 0..1.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = SQUASHED

    def resize_to(self, size: tuple[int, int]) -> Resize:
        """The same for another size: as large a part of the photo is kept."""
        if self.resize.sides is None or size == self.size:
            return self.resize
        height, width = (
            side * new // old
            for side, new, old in zip(self.resize.sides, size, self.size, strict=True)
        )
        return replace(self.resize, sides=(height, width))


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
