"""The number of channels that a network takes, read from and written to its first convolution."""

from __future__ import annotations

import torch


def first_convolution(model: torch.nn.Module) -> tuple[str, torch.nn.Conv2d] | None:
    """The name and module of the first 2-D convolution, if there is one."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            return name, module
    return None


def input_channels(model: torch.nn.Module) -> int | None:
    """How many channels the network takes, or None where it has no convolution to tell."""
    found = first_convolution(model)
    return None if found is None else found[1].in_channels


def set_input_channels(model: torch.nn.Module, channels: int) -> None:
    """Replaces the first convolution by a fresh one with ``channels`` inputs where they differ."""
    found = first_convolution(model)
    if found is None or found[1].in_channels == channels:
        return
    name, old = found
    new = torch.nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    model.set_submodule(name, new)
