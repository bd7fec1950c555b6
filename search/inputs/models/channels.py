"""The number of channels that a network takes, read from and written to its first convolution."""

from __future__ import annotations

from typing import Any

import torch


def first_convolution(model: torch.nn.Module) -> tuple[str, torch.nn.Conv2d] | None:
    """The name and module of the first 2-D convolution, if there is one."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            return name, module
    return None


def set_input_channels(model: torch.nn.Module, channels: int) -> None:
    """Replaces the first convolution by a fresh one with ``channels`` inputs where they differ."""
    found = first_convolution(model)
    if found is None or found[1].in_channels == channels:
        return
    name, old = found
    settings: dict[str, Any] = {
        name: getattr(old, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    bias = old.bias is not None
    new = torch.nn.Conv2d(channels, old.out_channels, bias=bias, **settings)
    model.set_submodule(name, new)
