"""Fake quantization: training sees the rounding that the exported file will have.

Weights symmetric per output channel, activations affine per tensor, as in the exported file.
Gradients pass straight through the rounding (Bengio et al. 2013; Jacob et al. 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

_MOMENTUM = 0.05


class FakeWeight(nn.Module):
    """Rounds a weight (out, ...) to ``bits`` with one symmetric scale per output channel."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.top = 2 ** (bits - 1) - 1

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as the file will hold it."""
        with torch.no_grad():
            scale = weight.detach().flatten(1).abs().amax(1).clamp_min(1e-8).float() / self.top
            zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(
            weight.float(), scale, zero, 0, -self.top, self.top
        )


class FakeActivation:
    """Forward pre-hook: rounds a layer's input to ``bits`` over a running range."""

    def __init__(self, bits: int) -> None:
        self.top = 2**bits - 1
        self.range: torch.Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0].float()
        if module.training or self.range is None:
            low, high = x.detach().aminmax()
            seen = torch.stack([low.clamp_max(0), high.clamp_min(0)])
            if self.range is None:
                self.range = seen
            else:
                self.range = torch.lerp(self.range, seen, _MOMENTUM)
        low, high = self.range
        scale = ((high - low) / self.top).clamp_min(1e-8)
        zero = (-low / scale).round().clamp(0, self.top).to(torch.int32)
        return (torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, self.top), *args[1:])


_HOOK = "_compression_search_fake_activation"


def insert(model: nn.Module, bits: dict[str, int]) -> None:
    """Puts fake quantization on the named layers; parameters keep their identity.

    A weight that its layer computes, as under a spectral norm, is left to be rounded in the file.
    """
    for name, width in bits.items():
        layer = model.get_submodule(name)
        if not parametrize.is_parametrized(layer, "weight"):
            parametrize.register_parametrization(layer, "weight", FakeWeight(width))
        handle = layer.register_forward_pre_hook(FakeActivation(width))
        object.__setattr__(layer, _HOOK, handle)


def remove(model: nn.Module) -> None:
    """Takes all fake quantization off; the trained float weights stay."""
    for layer in model.modules():
        handle = layer.__dict__.pop(_HOOK, None)
        if handle is not None:
            handle.remove()
            steps = getattr(layer, "parametrizations", {"weight": ()})["weight"]
            if any(isinstance(step, FakeWeight) for step in steps):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
