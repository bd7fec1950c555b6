"""What the time of an operator is made of: which kernel runs, and how much of what it does.

The terms follow what the runtime's convolution does: copy the image into a matrix, multiply it
by the weights in tiles, scale and store the outputs. Each is a count; a profile's kernel has
nanoseconds for one of each, fitted by ``hardware_profiles fit-operators``.
"""

from __future__ import annotations

import math

from hardware_profiles.ops import OpShape

WEIGHTED = frozenset({"conv", "depthwise", "linear"})
VARIANTS = ("", "pointwise", "dense", "grouped", "depthwise", "depthwise_3x3")
TERMS = (
    "gathered",  # elements copied into the matrix that is multiplied
    "copies",  # pieces they are copied in
    "lines",  # image rows that pieces are taken from
    "outputs",
    "tail_outputs",  # in the channels that are left over when vectors of `tail` are full
    "tail_macs",
    "pixels",  # of the output map, for each group
    "weights",
    "in_tail_weights",  # for input channels beyond the last full tile
    "inputs",
    "channels",  # of a depthwise convolution
)


def variant(op: str, shape: OpShape, bits: int) -> str:
    """Which of the runtime's kernels for ``op`` serves the shape; one of ``VARIANTS``."""
    if op not in ("conv", "depthwise"):
        return ""
    if shape.groups == 1:
        return "pointwise" if shape.kernel == shape.stride == (1, 1) else "dense"
    if not shape.in_channels == shape.out_channels == shape.groups:
        return "grouped"
    # Only in float, a 3x3 kernel that moves by one pixel has code of its own.
    own = bits != 8 and shape.kernel == (3, 3) and shape.stride == (1, 1)
    return "depthwise_3x3" if own else "depthwise"


def padded_work(
    op: str, shape: OpShape, tile_out: int = 1, tile_in: int = 1, tile_map: int = 1
) -> int:
    """Multiply-accumulates with channels and pixels filled up to whole tiles.

    For an operator without weights: the elements of its larger side.
    """
    if op not in WEIGHTED:
        return max(shape.in_elements, shape.out_elements)
    pixels, taps = math.prod(shape.out_size), math.prod(shape.kernel)
    if shape.in_channels == shape.out_channels == shape.groups > 1:
        return _pad(shape.out_channels, tile_out) * taps * pixels
    out = _pad(shape.out_channels // shape.groups, tile_out)
    depth = _pad(shape.in_channels // shape.groups * taps, tile_in)
    return shape.groups * out * depth * _pad(pixels, tile_map)


def amounts(op: str, shape: OpShape, kind: str, tail: int, tile_in: int) -> dict[str, int]:
    """How often each of ``TERMS`` happens in one inference; absent ones never do.

    Args:
        op: the operator.
        shape: its shape.
        kind: of ``VARIANTS``.
        tail: elements that the kernel finishes together.
        tile_in: elements that it multiplies together.
    """
    pixels, taps = math.prod(shape.out_size), math.prod(shape.kernel)
    if op in ("pool", "average_pool"):
        return {
            "outputs": shape.out_elements,
            "gathered": shape.out_elements * taps,
            "copies": pixels * taps,
        }
    if op not in WEIGHTED:
        return {"outputs": shape.out_elements}
    if kind.startswith("depthwise"):
        channels = shape.out_channels
        return {
            "tail_macs": channels % tail * pixels * taps,
            "tail_outputs": channels % tail * pixels,
            "outputs": channels * pixels,
            "copies": pixels * taps,
            "pixels": pixels,
            "inputs": shape.in_elements,
            "channels": channels,
            "lines": channels * shape.out_size[0],
            "gathered": channels * shape.out_size[0] * taps,
        }
    groups = shape.groups
    depth = shape.in_channels // groups * taps
    out = shape.out_channels // groups
    found = {
        "outputs": shape.out_channels * pixels,
        "tail_outputs": groups * pixels * (out % tail),
        "tail_macs": groups * pixels * depth * (out % tail),
        "pixels": groups * pixels,
        "weights": shape.weights,
        "in_tail_weights": shape.out_channels * (depth % tile_in),
        "inputs": shape.in_elements,
    }
    if kind not in ("pointwise", ""):
        found["gathered"] = groups * depth * pixels
        found["copies"] = groups * pixels * taps
        found["lines"] = groups * depth * shape.out_size[0]
    return found


def _pad(count: int, tile: int) -> int:
    return -(-count // tile) * tile
