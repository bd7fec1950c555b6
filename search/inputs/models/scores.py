"""The scores among what a network returns: a dictionary, a tuple or an object that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

NAMES = ("logits", "scores", "output", "out", "pred")


def scores_alone(model: nn.Module) -> nn.Module:
    """The model, of whose return value only the scores are left; its modules keep their names."""
    model.register_forward_hook(_keep_scores)
    return model


def scores_of(returned: Any) -> Any:
    """The scores in what a forward pass returned; as it is where none are found.

    A value called ``logits`` or so, else the first tensor: Hugging Face's and torchvision's
    classifiers return objects and named tuples, timm's distilled ones pairs while they train.
    """
    if isinstance(returned, torch.Tensor):
        return returned
    for name in NAMES:
        value = returned.get(name) if isinstance(returned, Mapping) else None
        value = getattr(returned, name, None) if value is None else value
        if isinstance(value, torch.Tensor):
            return value
    values = returned.values() if isinstance(returned, Mapping) else returned
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return returned
    return next((value for value in values if isinstance(value, torch.Tensor)), returned)


def _keep_scores(_module: nn.Module, _inputs: Any, returned: Any) -> Any:
    return scores_of(returned)
