"""The shape of one operator, as every cost function sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Op = Literal[
    "conv",  # dense or grouped convolution; 1x1 and strided included
    "depthwise",  # groups == in_channels
    "linear",  # matrix product with constant weights
    "add",  # elementwise with two inputs (residual additions, multiplications)
    "elementwise",  # elementwise with one input that the runtime does not fuse
    "pool",  # maximum over a window; average too where that has no kernel of its own
    "average_pool",
    "global_pool",  # average over the whole map
    "concat",  # and whatever else copies blocks of a tensor: split, slice
    "transpose",  # between layouts, with channels first and last
    "shuffle",  # of channels that lie last: a transposition of single elements
    "quantize",  # a float tensor becomes int8 or back
]
OPS: tuple[str, ...] = get_args(Op)


@dataclass(frozen=True)
class OpShape:
    """Shape of one operator at batch 1; a linear layer has 1x1 maps.

    ``kernel`` and ``stride`` are (height, width). Channels and sizes are counts of elements.
    """

    in_channels: int
    out_channels: int
    in_size: tuple[int, int] = (1, 1)
    out_size: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def weights(self) -> int:
        """Number of weights of a convolution or linear layer of this shape, bias excluded."""
        per_output = (self.in_channels // self.groups) * self.kernel[0] * self.kernel[1]
        return self.out_channels * per_output

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a convolution or linear layer of this shape."""
        return self.weights * self.out_size[0] * self.out_size[1]

    @property
    def in_elements(self) -> int:
        """Elements of the (first) input tensor."""
        return self.in_channels * self.in_size[0] * self.in_size[1]

    @property
    def out_elements(self) -> int:
        """Elements of the output tensor."""
        return self.out_channels * self.out_size[0] * self.out_size[1]
