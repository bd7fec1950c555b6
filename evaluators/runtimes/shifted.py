"""Activations of int8 moved up by 128 to uint8: the same integers, for which x86 has fast kernels.

Files for ARM have int8 activations. onnxruntime on x86 multiplies them with int8 weights by plain
code, and is 3 to 14 times as fast with uint8 ones. Every zero point moves with its values, so that
each sum is the same integer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# Instructions that add up uint8 times int8 without saturation; older ones give other sums.
EXACT_ON_X86 = frozenset({"avx512_vnni", "avx_vnni"})
SHIFT = 128


def with_unsigned_activations(model: Path) -> bytes | None:
    """The file with uint8 activations; None where it holds int8 values that can't be moved."""
    moved = onnx.load(model)
    graph = moved.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    zero_points: dict[str, TensorProto] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            continue  # weights stay as they are
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            if any(_is_int8(constants.get(name)) for name in node.input):
                return None
            continue
        name = node.input[2] if len(node.input) > 2 else ""
        if name not in constants:
            return None
        if not _is_int8(constants[name]):
            continue
        if name not in zero_points:
            values = numpy_helper.to_array(constants[name]).astype(np.int16) + SHIFT
            zero_points[name] = numpy_helper.from_array(values.astype(np.uint8), f"{name}_moved")
        node.input[2] = zero_points[name].name
    if not zero_points:
        return None
    graph.initializer.extend(zero_points.values())
    del graph.value_info[:]  # which may state the types of before
    return bytes(moved.SerializeToString())


def _is_int8(tensor: TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == TensorProto.INT8
