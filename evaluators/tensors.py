"""Working memory on a microcontroller: live tensors plus scratch, at the worst moment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from evaluators.evaluator import EvaluationContext
from evaluators.measurement import Measurement
from evaluators.shapes import StaticModel, load_static

# Computed in the buffer of their input when nobody else reads it.
_IN_PLACE = {"Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "LeakyRelu", "Identity"}
_VIEWS = {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout"}
_PASSING = _IN_PLACE | _VIEWS


def peak_tensor_bytes(model: StaticModel) -> int:
    """Bytes of all tensors alive at once plus the running operator's scratch, at the worst node.

    Nodes run in the order of the file. A tensor lives from the node that makes it to the last
    that reads it; the input from the start, the output to the end. Weights stay in flash.
    An operator between dequantized inputs and a quantized output is one integer operator, as
    in TensorFlow Lite Micro: its tensors take the bytes of their integer side. Buffers are
    assumed to be packed without waste.
    """
    buffers = _buffers(model)
    end = len(model.nodes)
    first: dict[str, int] = {buffers[name]: 0 for name in model.inputs}
    last: dict[str, int] = {buffers[name]: end for name in model.outputs}
    sizes: dict[str, int] = {}
    for name, buffer in buffers.items():
        size = math.ceil(math.prod(model.shape(name)) * model.bits[name] / 8)
        # The narrowest view is the one that is stored.
        sizes[buffer] = min(size, sizes.get(buffer, size))
    for index, node in enumerate(model.nodes):
        for name in node.output:
            if name in buffers:
                first.setdefault(buffers[name], index)
        for name in [*node.input, *node.output]:
            if name in buffers:
                last[buffers[name]] = max(index, last.get(buffers[name], 0))
    return max(
        sum(size for buffer, size in sizes.items() if first[buffer] <= index <= last[buffer])
        + _scratch_bytes(model, node, buffers, sizes)
        for index, node in enumerate(model.nodes)
    )


class _Flow:
    """Who makes and reads each tensor, and which operators compute with integers."""

    def __init__(self, model: StaticModel) -> None:
        self.model = model
        self.maker = {name: node for node in model.nodes for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in model.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def runs_as_integer(self, node: Any) -> bool:
        """Dequantized operands in, quantized result out: the kernel never sees a float."""
        # A third input is a bias; 64-bit ones are axes and sizes.
        operands = [name for name in node.input[:2] if name and self.model.bits[name] < 64]
        return all(self._is_dequantized(name) for name in operands) and self._gets_quantized(node)

    def stays_integer(self, name: str) -> bool:
        """Whether a tensor about to be quantized was never stored as a float."""
        node = self.maker.get(name)
        if node is None or node.op_type == "DequantizeLinear":
            return True
        if node.op_type in _PASSING:
            return self.stays_integer(node.input[0])
        return self.runs_as_integer(node)

    def read_as_integer(self, name: str) -> bool:
        """Whether a dequantized tensor never needs to be stored as a float."""
        return all(
            reader.op_type == "QuantizeLinear"
            or (
                self.read_as_integer(reader.output[0])
                if reader.op_type in _PASSING
                else self.runs_as_integer(reader)
            )
            for reader in self.readers.get(name, [])
        )

    def _is_dequantized(self, name: str) -> bool:
        node = self.maker.get(name)
        if node is None:
            return False
        if node.op_type in _PASSING:
            return self._is_dequantized(node.input[0])
        return bool(node.op_type == "DequantizeLinear")

    def _gets_quantized(self, node: Any) -> bool:
        found = self.readers.get(node.output[0], [])
        return bool(found) and all(
            reader.op_type == "QuantizeLinear"
            or (reader.op_type in _PASSING and self._gets_quantized(reader))
            for reader in found
        )


def _buffers(model: StaticModel) -> dict[str, str]:
    """For every tensor that isn't a constant: the name of the buffer it lives in."""
    flow = _Flow(model)
    constant = set(model.initializers)
    buffers = {name: name for name in model.inputs}
    for node in model.nodes:
        computed = [name for name in node.input if name and name not in constant]
        if not computed:
            constant.update(node.output)
            continue
        for name in node.output:
            buffers[name] = name
        source, result, kind = computed[0], node.output[0], node.op_type
        alone = len(flow.readers[source]) == 1 and source not in model.outputs
        shared = (
            kind in _VIEWS
            or (kind in _IN_PLACE and alone)
            or (kind == "QuantizeLinear" and alone and flow.stays_integer(source))
            or (kind == "DequantizeLinear" and flow.read_as_integer(result))
        )
        if shared:
            buffers[result] = buffers[source]
    return buffers


def _scratch_bytes(
    model: StaticModel, node: Any, buffers: dict[str, str], sizes: dict[str, int]
) -> int:
    """What CMSIS-NN asks for one convolution on cores with the DSP extension.

    Source: ``arm_*_get_buffer_size`` of CMSIS-NN 16: an int8 convolution unfolds two columns
    of 16-bit values, rounded up to four; depthwise one column; 1x1 and linear none. Float
    kernels unfold nothing.
    """
    if node.op_type != "Conv" or node.input[0] not in buffers:
        return 0
    if sizes[buffers[node.input[0]]] > math.prod(model.shape(node.input[0])):
        return 0  # wider than a byte an element
    weight = model.shape(node.input[1])
    window = math.prod(weight[2:])
    channels = model.shape(node.input[0])[1]
    if weight[1] == 1 and channels > 1:
        return channels * window * 2
    if window == 1:
        return 0
    return 2 * (-(-weight[1] * window // 4) * 4) * 2


class Tensors:
    """``peak_tensor_bytes`` for microcontrollers, where resident memory means nothing."""

    name = "tensors"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """On microcontrollers."""
        return context.profile.kind == "microcontroller"

    def evaluate(self, model: Path, context: EvaluationContext) -> tuple[Measurement, ...]:
        """The estimate for one file.

        Raises:
            ValueError: the file has shapes that do not follow from its input's.
        """
        return (
            Measurement(
                "peak_tensor_bytes",
                peak_tensor_bytes(load_static(model)),
                "bytes",
                "estimated",
                f"live tensors plus CMSIS-NN scratch at the worst operator, in the file's order, "
                f"for {context.profile.name}; weights stay in flash, the interpreter's own "
                f"memory is not included",
                repeatable=True,
            ),
        )


EVALUATOR = Tensors()
