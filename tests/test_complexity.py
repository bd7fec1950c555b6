"""Counts of a file's arithmetic, weights and live tensors, against counts made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluators.complexity import count_macs, count_parameters
from evaluators.shapes import load_static


def save(path: Path, nodes, weights: dict[str, np.ndarray], out_rank: int = 2) -> Path:
    """A file with input ``x`` (batch, 3, 8, 8) and output ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [
            helper.make_tensor_value_info(
                "y", TensorProto.FLOAT, ["batch", *[None] * (out_rank - 1)]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def weights(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.fixture
def float_net(tmp_path):
    """Strided conv 3->4, ReLU, depthwise 3x3, global pool, linear 4->5."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    tensors = {
        "w1": weights(4, 3, 3, 3),
        "b1": weights(4),
        "w2": weights(4, 1, 3, 3),
        "w3": weights(5, 4),
        "b3": weights(5),
    }
    return save(tmp_path / "float.onnx", nodes, tensors)


def test_macs_are_those_counted_by_hand(float_net):
    conv, depthwise, linear = 4 * 4 * 4 * 3 * 9, 4 * 4 * 4 * 9, 4 * 5
    assert count_macs(load_static(float_net)) == conv + depthwise + linear


def test_parameters_are_those_counted_by_hand(float_net):
    assert count_parameters(load_static(float_net)) == 4 * 27 + 4 + 4 * 9 + 20 + 5


def test_parameters_leave_out_scales_and_zero_points_when_weights_are_int8(tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["y"]),
    ]
    tensors = {
        "s": np.float32(0.1),
        "z": np.uint8(128),
        "w": np.ones((2, 3, 1, 1), np.int8),
        "ws": weights(2),
        "wz": np.zeros(2, np.int8),
        "b": np.ones(2, np.int32),
        "bs": weights(2),
        "bz": np.zeros(2, np.int32),
    }
    static = load_static(save(tmp_path / "int8.onnx", nodes, tensors, out_rank=4))
    assert count_parameters(static) == 6 + 2
    assert count_macs(static) == 2 * 8 * 8 * 3


def test_shape_raises_with_a_remedy_when_it_is_unknown(float_net):
    with pytest.raises(ValueError, match="export with a fixed image size"):
        load_static(float_net).shape("nothing")
