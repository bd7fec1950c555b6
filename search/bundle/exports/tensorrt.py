"""An ONNX file for TensorRT: symmetric int8 with explicit QuantizeLinear and DequantizeLinear.

TensorRT takes zero points of zero only, weights by output channel and biases in float, and
follows the pairs that it finds (its documentation, "Explicit quantization"). Which layers are in
8 bits is as the winner's plan says. There is no TensorRT here: the structure is checked, and the
answers are those of onnxruntime, which computes what the pairs say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.bundle.exports.exporter import ExportError, Source

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


class TensorRT:
    """``model.tensorrt.onnx``."""

    name = "tensorrt"
    title = "ONNX for TensorRT"
    file = "model.tensorrt.onnx"
    seconds = 5.0
    runtime = "onnxruntime, not TensorRT,"

    def check(self) -> None:
        """All it needs is always there."""

    def write(self, source: Source, target: Path) -> None:
        """Exports the float model and quantizes it anew.

        Raises:
            ExportError: the file is not as TensorRT wants it.
        """
        import onnx

        from spaces.files.explicit import quantize_explicit
        from spaces.files.export import export_onnx

        plain = target.with_suffix(".float.onnx")
        export_onnx(source.model, plain, source.input_shape)
        if source.quantized:
            quantize_explicit(
                plain, target, layers=source.quantized, images=source.images, ranges=source.ranges
            )
            plain.unlink()
        else:
            plain.replace(target)
        faults = structural_faults(onnx.load(target), source.quantized)
        if faults:
            target.unlink()
            raise ExportError(f"TensorRT would not take it: {'; '.join(faults[:3])}")

    def outputs(
        self, file: Path, images: NDArray[np.float32], threads: int
    ) -> NDArray[np.float32]:
        """As the pairs say, computed by onnxruntime without optimization."""
        from search.bundle.exports.sessions import plain_outputs

        return plain_outputs(file, images, threads)


EXPORTER = TensorRT()


def structural_faults(model: onnx.ModelProto, quantized: Sequence[str]) -> list[str]:
    """What TensorRT's rules for explicit quantization forbid, one sentence each."""
    from onnx import TensorProto, numpy_helper

    from spaces.files.qdq import layer_of

    values = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {out: node for node in model.graph.node for out in node.output}
    faults = []
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = numpy_helper.to_array(values[node.input[1]])
        zero = values[node.input[2]] if len(node.input) > 2 else None
        if zero is not None and zero.data_type != TensorProto.INT8:
            faults.append(f"{node.name} is not of int8")
        if zero is not None and numpy_helper.to_array(zero).any():
            faults.append(f"{node.name} has a zero point that is not zero")
        if not (scale > 0).all():
            faults.append(f"{node.name} has a scale that is not above zero")
    for node in model.graph.node:
        made = [producers.get(name) for name in node.input[:2]]
        fed = [maker is not None and maker.op_type == "DequantizeLinear" for maker in made]
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        if layer_of(node) in quantized and fed != [True, True]:
            faults.append(f"{node.name} lacks a pair at its input or its weights")
        if layer_of(node) not in quantized and len(fed) > 1 and fed[1]:
            faults.append(f"{node.name} is planned as float, but its weights are quantized")
        if len(node.input) > 2 and node.input[2] not in values:
            faults.append(f"the bias of {node.name} is not a float constant")
    return faults
