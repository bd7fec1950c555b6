"""Small ONNX files for tests, with weights that do not matter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, tuple[int, ...]],
    image: tuple[int | str, ...],
    output: tuple[int | str, ...],
    output_name: str = "logits",
) -> Path:
    """Writes a model from ``image`` to ``output_name``; its weights are random, but fixed."""
    draw = np.random.default_rng(0)
    tensors = [
        onnx.numpy_helper.from_array(draw.standard_normal(dims).astype(np.float32) * 0.1, name)
        for name, dims in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, output)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def small_network(path: Path, batch: int | str = 1) -> Path:
    """A 3x3 convolution, a depthwise one, a residual 1x1 one, pooling and a linear layer.

    Images are 3x16x16, classes 10; the first convolution halves the map.
    """
    nodes = [
        helper.make_node(
            "Conv",
            ["image", "stem.weight", "stem.bias"],
            ["a"],
            name="conv_a",
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1, 1, 1, 1],
        ),
        helper.make_node("Relu", ["a"], ["b"], name="relu_a"),
        helper.make_node(
            "Conv",
            ["b", "depth.weight", "depth.bias"],
            ["c"],
            name="conv_b",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            group=16,
        ),
        helper.make_node("Relu", ["c"], ["d"], name="relu_b"),
        helper.make_node(
            "Conv", ["d", "point.weight", "point.bias"], ["e"], name="conv_c", kernel_shape=[1, 1]
        ),
        helper.make_node("Add", ["e", "b"], ["f"], name="add"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], name="mean"),
        helper.make_node("Flatten", ["g"], ["h"], name="flat"),
        helper.make_node(
            "Gemm", ["h", "head.weight", "head.bias"], ["logits"], name="gemm", transB=1
        ),
    ]
    weights = {
        "stem.weight": (16, 3, 3, 3),
        "stem.bias": (16,),
        "depth.weight": (16, 1, 3, 3),
        "depth.bias": (16,),
        "point.weight": (16, 16, 1, 1),
        "point.bias": (16,),
        "head.weight": (10, 16),
        "head.bias": (10,),
    }
    return save(path, nodes, weights, (batch, 3, 16, 16), (batch, 10))


class _Random(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: tuple[int, ...]) -> None:
        draw = np.random.default_rng(1)
        batches = [{"image": draw.standard_normal(shape).astype(np.float32)} for _ in range(2)]
        self._left = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def quantized(source: Path, path: Path, image: tuple[int, ...] = (1, 3, 16, 16)) -> Path:
    """The signed int8 version of ``source``, per channel, in QDQ form."""
    quantize_static(
        source,
        path,
        _Random(image),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return path
