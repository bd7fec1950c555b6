"""A model that is handed over in Python: a module with its weights, or a function that makes one.

Such a model exists in this process alone, so that no other process can build it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from search.errors import InputError
from search.inputs.models.build import Build
from search.inputs.models.declared import Declared
from search.inputs.models.function import called
from search.inputs.models.timm import of_config


@dataclass(frozen=True, kw_only=True)
class GivenBuild(Build):
    """Copies a module that is there, or calls a function for one; ``spec`` is its name."""

    module: torch.nn.Module | None = None
    function: Callable[..., Any] | None = None

    def __call__(self) -> torch.nn.Module:
        """The architecture, in eval mode."""
        if self.module is not None:
            return copy.deepcopy(self.module)
        assert self.function is not None
        return called(self.function, self.spec, self.classes, self.channels, self.size).eval()


def name_of(model: Any) -> str:
    """What messages and the study call a model that was handed over.

    Raises:
        InputError: it is neither a module nor a function.
    """
    if isinstance(model, torch.nn.Module):
        return type(model).__qualname__
    if callable(model):
        return str(getattr(model, "__qualname__", type(model).__qualname__))
    raise InputError(
        f"a model must be a torch.nn.Module, a function that returns one, or a name such as "
        f"'torchvision:resnet18', but got a {type(model).__name__}; hand over one of these"
    )


def snapshot(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU in eval mode: what is done to either has no effect on the other."""
    return copy.deepcopy(model).cpu().eval().requires_grad_(True)


def declared_by(model: Any) -> Declared | None:
    """The input that timm's models say their weights were trained on; None for all others."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(model, torch.nn.Module) or not isinstance(config, dict):
        return None
    return of_config(config)
