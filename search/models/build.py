"""A recipe for the untouched architecture that any process can follow."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from search.sources import find_source


@dataclass(frozen=True)
class Build:
    """Makes the architecture anew each time it is called; pickled as plain values."""

    spec: str
    classes: int
    channels: int
    size: tuple[int, int]

    def __call__(self) -> torch.nn.Module:
        """The architecture with fresh weights (from torch's global generator), in eval mode."""
        source, argument = find_source("search.models", self.spec, "a model")
        model: torch.nn.Module = source.build(argument, self.classes, self.channels, self.size)
        return model.eval()
