"""An exported file with every shape known: batch 1, shapes inferred."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

_TYPE_BITS = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.DOUBLE: 64,
}


@dataclass(frozen=True)
class StaticModel:
    """Nodes in execution order, initializers by name, shape and bits of every tensor."""

    nodes: tuple[Any, ...]
    initializers: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    bits: Mapping[str, int]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor at batch 1.

        Raises:
            ValueError: shape inference could not tell.
        """
        try:
            return self.shapes[tensor]
        except KeyError:
            raise ValueError(
                f"every shape must follow from the input's, but that of {tensor!r} does not; "
                f"export with a fixed image size and only the batch dynamic"
            ) from None


def load_static(path: Path) -> StaticModel:
    """Reads an ONNX file with one input (batch, ...) and infers all shapes at batch 1."""
    model = onnx.load(str(path))
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    for value in inputs:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    # What the exporter noted about inner tensors may hold the symbolic batch; infer it anew.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if not all(
        _has_shape(value) for value in [*inferred.graph.value_info, *inferred.graph.output]
    ):
        # Attention computes shapes from shapes; this follows them, and knows fewer operators.
        inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True)
    graph = inferred.graph
    shapes: dict[str, tuple[int, ...]] = {t.name: tuple(t.dims) for t in initializers.values()}
    bits = {t.name: _TYPE_BITS[t.data_type] for t in initializers.values()}
    for value in [*inputs, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        bits[value.name] = _TYPE_BITS[tensor.elem_type]
        if _has_shape(value):
            shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return StaticModel(
        nodes=tuple(graph.node),
        initializers=initializers,
        inputs=tuple(value.name for value in inputs),
        outputs=tuple(value.name for value in graph.output),
        shapes=shapes,
        bits=bits,
    )


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    """Whether every dimension of a tensor is a known number."""
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
