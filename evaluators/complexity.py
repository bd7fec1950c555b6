"""How much arithmetic and how many weights an exported file has."""

from __future__ import annotations

import math
from pathlib import Path

import onnx

from evaluators.evaluator import EvaluationContext
from evaluators.measurement import Measurement
from evaluators.shapes import StaticModel, load_static

_QUANTIZING = {"QuantizeLinear", "DequantizeLinear"}
_INTEGER_WEIGHTS = {
    onnx.TensorProto.INT4,
    onnx.TensorProto.UINT4,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.UINT16,
    onnx.TensorProto.INT32,
}
_FLOAT_WEIGHTS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}


def count_macs(model: StaticModel) -> int:
    """Multiply-accumulates of all convolutions and matrix products at batch 1; biases excluded."""
    total = 0
    for node in model.nodes:
        if node.op_type == "Conv":
            per_output = math.prod(model.shape(node.input[1])[1:])
            total += math.prod(model.shape(node.output[0])) * per_output
        elif node.op_type == "ConvTranspose":
            per_input = math.prod(model.shape(node.input[1])[1:])
            total += math.prod(model.shape(node.input[0])) * per_input
        elif node.op_type in ("Gemm", "MatMul"):
            transposed = node.op_type == "Gemm" and any(
                a.name == "transA" and a.i for a in node.attribute
            )
            inner = model.shape(node.input[0])[-2 if transposed else -1]
            total += math.prod(model.shape(node.output[0])) * inner
    return total


def count_parameters(model: StaticModel) -> int:
    """Elements of all learned tensors, whatever their width.

    Counted: float initializers and the integer ones that a DequantizeLinear turns into weights
    or biases. Not counted: scales, zero points, scalars and shapes.
    """
    dequantized = {n.input[0] for n in model.nodes if n.op_type == "DequantizeLinear"}
    helpers = {name for n in model.nodes if n.op_type in _QUANTIZING for name in n.input[1:]}
    total = 0
    for tensor in model.initializers.values():
        learned = tensor.data_type in _FLOAT_WEIGHTS or (
            tensor.data_type in _INTEGER_WEIGHTS and tensor.name in dequantized
        )
        if learned and tensor.name not in helpers and len(tensor.dims) > 0:
            total += math.prod(tensor.dims)
    return total


class Complexity:
    """``macs`` and ``parameters`` of the file; counted, so without error."""

    name = "complexity"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """Always."""
        return True

    def evaluate(self, model: Path, context: EvaluationContext) -> tuple[Measurement, ...]:
        """Both counts.

        Raises:
            ValueError: the file has shapes that do not follow from its input's.
        """
        static = load_static(model)
        how = "counted in the ONNX graph at batch 1"
        return (
            Measurement("macs", count_macs(static), "", "exact", how, repeatable=True),
            Measurement("parameters", count_parameters(static), "", "exact", how, repeatable=True),
        )


EVALUATOR = Complexity()
