"""timm's classifiers by name, such as ``timm:efficientnet_lite0``; timm is optional."""

from __future__ import annotations

from typing import Any

import torch

from search.errors import InputError
from search.models.declared import Declared
from search.optional import import_optional
from search.sources import nearest

PREFIX = "timm"
USAGE = "timm:NAME"


def _timm() -> Any:
    return import_optional("timm", "a model of timm")


def check(argument: str) -> None:
    """Accepts the names of timm's models, with or without the tag of a set of weights.

    Raises:
        InputError: another name, or timm is not installed.
    """
    timm = _timm()
    if not timm.is_model(argument):
        known = timm.list_models()
        close = nearest(argument, known)
        hint = f"did you mean timm:{close}?" if close else "such as timm:efficientnet_lite0"
        raise InputError(
            f"a model's name must be one of timm's {len(known)} models, but got {argument!r}; "
            f"{hint}"
        )


def declared(argument: str) -> Declared | None:
    """The input of timm's own weights, where there are any."""
    config = _timm().get_pretrained_cfg(argument)
    if config is None:
        return None
    height, width = config.input_size[1:]
    return Declared((height, width), tuple(config.mean), tuple(config.std))


def build(argument: str, classes: int, channels: int, size: tuple[int, int]) -> torch.nn.Module:
    """The named architecture with fresh weights."""
    timm = _timm()
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    config = timm.get_pretrained_cfg(argument)
    if config is not None and config.fixed_input_size:
        settings["img_size"] = size
    model: torch.nn.Module = timm.create_model(argument, pretrained=False, **settings)
    return model
