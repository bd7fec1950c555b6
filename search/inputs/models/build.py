"""A recipe for the untouched architecture that any process can follow."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from search.inputs.models.scores import scores_alone
from search.inputs.own_code import use_folder
from search.inputs.sources import find_source


@dataclass(frozen=True)
class Build:
    """Makes the architecture anew each time it is called; pickled as plain values.

    ``folder`` is where a person's own module is looked for: a worker starts elsewhere.
    """

    spec: str
    classes: int
    channels: int
    size: tuple[int, int]
    folder: str = field(default_factory=os.getcwd)

    def __call__(self) -> torch.nn.Module:
        """The architecture with fresh weights (from torch's global generator), in eval mode."""
        use_folder(self.folder)
        source, argument = find_source("search.inputs.models", self.spec, "a model")
        model: torch.nn.Module = source.build(argument, self.classes, self.channels, self.size)
        return scores_alone(model.eval())
