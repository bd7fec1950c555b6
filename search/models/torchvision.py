"""torchvision's classifiers by name, such as ``torchvision:resnet18``."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import models

from search.errors import InputError
from search.models.channels import set_input_channels
from search.models.declared import Declared
from search.sources import nearest

PREFIX = "torchvision"
USAGE = "torchvision:NAME"


def suggests(spec: str) -> bool:
    """Whether that is the name of a classifier of torchvision."""
    return spec in models.list_models(module=models)


def check(argument: str) -> None:
    """Accepts the names of torchvision's classifiers.

    Raises:
        InputError: another name.
    """
    known = models.list_models(module=models)
    if argument not in known:
        close = nearest(argument, known)
        hint = f"did you mean torchvision:{close}?" if close else "such as torchvision:resnet18"
        raise InputError(
            f"a model's name must be one of torchvision's {len(known)} classifiers, "
            f"but got {argument!r}; {hint}"
        )


def declared(argument: str) -> Declared:
    """The input of torchvision's own weights."""
    preset = models.get_model_weights(argument).DEFAULT.transforms()
    side = preset.crop_size[0]
    return Declared((side, side), tuple(preset.mean), tuple(preset.std))


def build(argument: str, classes: int, channels: int, size: tuple[int, int]) -> torch.nn.Module:
    """The named architecture with fresh weights, without auxiliary heads."""
    settings: dict[str, Any] = {"weights": None, "num_classes": classes}
    if argument in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}
    if argument.startswith("vit_"):
        settings |= {"image_size": size[0]}
    if argument.startswith("maxvit"):
        settings |= {"input_size": size}
    model: torch.nn.Module = models.get_model(argument, **settings)
    set_input_channels(model, channels)
    return model
