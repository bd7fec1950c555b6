"""Adaptive average pooling to any size in an exported file.

torch's exporter writes it only where the output's size divides the input's. Each output is the
mean of a window from ``floor(i * size / outputs)`` to ``ceil((i + 1) * size / outputs)``, and the
mean of a rectangle is the mean of its rows' means.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.onnx import symbolic_helper

_NAME = "aten::adaptive_avg_pool2d"


@contextlib.contextmanager
def exported_adaptive_pooling(opset: int) -> Iterator[None]:
    """While it lasts, the exporter writes adaptive average pooling as windows and means."""
    torch.onnx.register_custom_op_symbolic(_NAME, _pooling, opset)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(_NAME, opset)  # type: ignore[attr-defined]


@symbolic_helper.parse_args("v", "is")
def _pooling(g: Any, x: Any, outputs: list[int]) -> Any:
    sizes = symbolic_helper._get_tensor_sizes(x)[2:]
    if list(outputs) == [1, 1]:
        return g.op("GlobalAveragePool", x)
    if all(size % n == 0 for size, n in zip(sizes, outputs, strict=True)):
        window = [size // n for size, n in zip(sizes, outputs, strict=True)]
        return g.op("AveragePool", x, kernel_shape_i=window, strides_i=window)
    for axis, (size, n) in enumerate(zip(sizes, outputs, strict=True), start=2):
        if size != n:
            x = _means(g, x, axis, size, n)
    return x


def _means(g: Any, x: Any, axis: int, size: int, outputs: int) -> Any:
    parts = []
    for i in range(outputs):
        begin, end = i * size // outputs, -(-(i + 1) * size // outputs)
        window = symbolic_helper._slice_helper(g, x, axes=[axis], starts=[begin], ends=[end])
        is_mean = end - begin > 1
        parts.append(
            g.op("ReduceMean", window, axes_i=[axis], keepdims_i=1) if is_mean else window
        )
    return g.op("Concat", *parts, axis_i=axis)
