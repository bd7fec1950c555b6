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
from search.inputs.models.scores import scores_alone
from search.inputs.models.timm import of_config
from search.inputs.models.weights import check_tensors
from search.inputs.own_code import one_line

# What older tools leave in the place of a weight, and how the weight comes back.
HOOKED = (
    ({"weight_g", "weight_v"}, "torch.nn.utils.remove_weight_norm(layer)"),
    ({"weight_orig", "weight_mask"}, "torch.nn.utils.prune.remove(layer, 'weight')"),
    ({"weight_orig", "weight_u"}, "torch.nn.utils.remove_spectral_norm(layer)"),
)


@dataclass(frozen=True, kw_only=True)
class GivenBuild(Build):
    """Copies a module that is there, or calls a function for one; ``spec`` is its name."""

    module: torch.nn.Module | None = None
    function: Callable[..., Any] | None = None

    def __call__(self) -> torch.nn.Module:
        """The architecture, in eval mode."""
        if self.module is not None:
            return scores_alone(copy.deepcopy(self.module))
        assert self.function is not None
        made = called(self.function, self.spec, self.classes, self.channels, self.size)
        return scores_alone(made.eval())


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
    """A copy in eval mode, in 32 bits on the CPU, that shares nothing with the model.

    Raises:
        InputError: it can't be copied, or its weights are not its own parameters.
    """
    check_module(model, name_of(model))
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # of the model's own code: anything
        raise InputError(
            f"a model must be one that copy.deepcopy can copy, but {name_of(model)!r} raised "
            f"{one_line(error)[:160]}; hand over a function that makes it, and its weights"
        ) from error
    return copied.float().cpu().eval().requires_grad_(True)


def check_module(model: torch.nn.Module, name: str) -> None:
    """Refuses modules whose layers can't be changed.

    Raises:
        InputError: it is scripted, lazy, or has weights that a hook computes.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"a model must be a plain torch.nn.Module, but {name!r} is scripted or traced; hand "
            f"over the module that it was made of"
        )
    check_tensors(dict(model.named_parameters()), name)
    for path, module in model.named_modules():
        own = {parameter for parameter, _ in module.named_parameters(recurse=False)}
        for parts, remedy in HOOKED:
            if parts <= own | {buffer for buffer, _ in module.named_buffers(recurse=False)}:
                raise InputError(
                    f"a layer's weight must be a parameter, but that of {path!r} in {name!r} is "
                    f"computed by a hook from {' and '.join(sorted(parts))}; first call {remedy}"
                )


def declared_by(model: Any) -> Declared | None:
    """The input that timm's models say their weights were trained on; None for all others."""
    config = getattr(model, "pretrained_cfg", None)
    if not isinstance(model, torch.nn.Module) or not isinstance(config, dict):
        return None
    return of_config(config)
