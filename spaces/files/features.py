"""What a network sees in an image before it decides: the input of its last layer.

The input of the last convolution or linear layer, averaged over positions. Whatever was pruned
before it, the layer itself is there in teacher and student under the same name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Watch:
    """Keeps the features (N, F) of the latest batch; None before the first."""

    def __init__(self) -> None:
        self.features: torch.Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook of the last layer."""
        x = inputs[0]
        if isinstance(layer, nn.Conv2d):
            self.features = x.mean((2, 3))
        else:
            self.features = x if x.dim() == 2 else x.flatten(1, -2).mean(1)


@contextmanager
def watched(model: nn.Module, layer: str | None) -> Iterator[Watch]:
    """Watches the input of ``layer``; without one, or where the model lacks it, nothing."""
    watch = Watch()
    module = dict(model.named_modules()).get(layer) if layer else None
    handle = module.register_forward_pre_hook(watch) if module else None
    try:
        yield watch
    finally:
        if handle:
            handle.remove()


def similarity_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """How differently two networks find the images of a batch alike.

    Tung, Mori 2019 (similarity-preserving distillation): the products of all pairs of feature
    vectors, each row of products scaled to length one, compared by squared distance; here the
    mean over the rows. Numbers of channels may differ, so nothing has to be learned to compare.

    Args:
        student: features (N, F).
        teacher: features (N, G) of the same images; their scale does not matter.
    """
    own = functional.normalize(student @ student.T, dim=1)
    theirs = functional.normalize(teacher @ teacher.T, dim=1)
    return (own - theirs).square().sum(1).mean()
