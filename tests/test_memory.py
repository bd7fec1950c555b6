"""Size, resident memory and live tensors of exported files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluators import EvaluationContext
from evaluators.memory import Memory
from evaluators.shapes import load_static
from evaluators.size import Size
from evaluators.tensors import Tensors, peak_tensor_bytes
from hardware_profiles import shipped_profiles
from hardware_profiles.devices.device import ModelError

MB = 2**20


def save(path: Path, nodes, tensors: dict[str, np.ndarray], size: int = 8) -> Path:
    """A file with input ``x`` (batch, 3, size, size) and output ``y``, rank 4."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, None, None])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def pair(source: str, result: str) -> list:
    """Quantize and dequantize."""
    return [
        helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{source}_q"]),
        helper.make_node("DequantizeLinear", [f"{source}_q", "s", "z"], [result]),
    ]


QUANTIZER = {"s": np.float32(0.1), "z": np.int8(0)}


@pytest.fixture
def context(tmp_path):
    return EvaluationContext(
        profile=shipped_profiles()["x86-avx2"],
        images=np.zeros((1, 3, 8, 8), np.float32),
        labels=np.zeros(1, np.int64),
        scratch=tmp_path,
    )


@pytest.fixture
def small(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    return save(tmp_path / "small.onnx", [node], {"w": np.ones((2, 3, 1, 1), np.float32)})


@pytest.fixture
def large(tmp_path):
    """32 MB of weights."""
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    weights = np.zeros((2, 3, 1182, 1182), np.float32)
    return save(tmp_path / "large.onnx", [node], {"w": weights}, size=1182)


def test_size_is_that_of_the_file(small, context):
    (size,) = Size().evaluate(small, context)
    assert (size.name, size.value, size.source) == (
        "size_bytes",
        len(small.read_bytes()),
        "exact",
    )


def test_memory_holds_the_weights_when_they_are_large(small, large, context):
    less, above_less = Memory().evaluate(small, context)
    more, above_more = Memory().evaluate(large, context)
    assert more.value - less.value > 32 * MB
    assert above_more.value > 32 * MB
    assert 0 <= above_less.value < 16 * MB


def test_memory_does_not_count_the_process_that_asks(small, context):
    # getrusage would report at least what this process had when it started the child.
    ballast = np.ones(300 * MB, np.uint8)
    peak, _ = Memory().evaluate(small, context)
    assert peak.value < ballast.nbytes


def test_memory_raises_when_the_file_is_no_model(tmp_path, context):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match="host"):
        Memory().evaluate(broken, context)


def test_tensors_apply_to_microcontrollers_only_and_memory_to_the_others(context):
    micro = dataclasses.replace(context, profile=shipped_profiles()["cortex-m7-2mb"])
    assert Tensors().applies(micro)
    assert not Memory().applies(micro)
    assert Memory().applies(context)
    assert not Tensors().applies(context)


def test_peak_tensors_of_a_float_chain_are_input_and_output_of_the_worst_node(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),  # in place
        helper.make_node("Conv", ["b", "w2"], ["y"]),
    ]
    tensors = {
        "w1": np.ones((10, 3, 1, 1), np.float32),
        "w2": np.ones((5, 10, 1, 1), np.float32),
    }
    path = save(tmp_path / "chain.onnx", nodes, tensors)
    assert peak_tensor_bytes(load_static(path)) == (10 + 5) * 64 * 4


def test_peak_tensors_keep_the_shortcut_alive_beside_the_branch(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Conv", ["a", "w2"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]
    tensors = {"w1": np.ones((4, 3, 1, 1), np.float32), "w2": np.ones((4, 4, 1, 1), np.float32)}
    path = save(tmp_path / "shortcut.onnx", nodes, tensors)
    assert peak_tensor_bytes(load_static(path)) == 3 * 4 * 64 * 4  # a, b, c or a, c, y


def test_peak_tensors_of_an_integer_convolution_are_bytes_plus_two_unfolded_columns(tmp_path):
    nodes = [
        *pair("x", "xd"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        *pair("b", "c"),
        helper.make_node("DequantizeLinear", ["w2", "s", "z"], ["wd2"]),
        helper.make_node("Conv", ["c", "wd2"], ["d"]),
        *pair("d", "y"),
    ]
    tensors = {
        **QUANTIZER,
        "w": np.ones((6, 3, 3, 3), np.int8),
        "w2": np.ones((1, 6, 1, 1), np.int8),
    }
    path = save(tmp_path / "integer.onnx", nodes, tensors)
    columns = 2 * 28 * 2  # 3 * 9 = 27, rounded up to 28, two columns of 16 bits
    assert peak_tensor_bytes(load_static(path)) == (3 + 6) * 64 + columns


def test_peak_tensors_store_a_float_when_one_layer_of_the_chain_stays_float(tmp_path):
    nodes = [
        *pair("x", "xd"),
        helper.make_node("Conv", ["xd", "w"], ["a"]),  # float weights: a float kernel
        *pair("a", "y"),
    ]
    tensors = {**QUANTIZER, "w": np.ones((6, 3, 1, 1), np.float32)}
    path = save(tmp_path / "mixed.onnx", nodes, tensors)
    # The convolution reads and writes floats; the quantized input was freed before it ran.
    assert peak_tensor_bytes(load_static(path)) == (3 + 6) * 64 * 4


def test_peak_tensors_unfold_one_column_when_the_convolution_is_depthwise(tmp_path):
    nodes = [
        *pair("x", "xd"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["a"], group=3, pads=[1, 1, 1, 1]),
        *pair("a", "b"),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[8, 8]),
        *pair("c", "y"),
    ]
    tensors = {**QUANTIZER, "w": np.ones((3, 1, 3, 3), np.int8)}
    path = save(tmp_path / "depthwise.onnx", nodes, tensors)
    assert peak_tensor_bytes(load_static(path)) == (3 + 3) * 64 + 3 * 9 * 2
