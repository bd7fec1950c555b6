"""Static quantization of chosen layers of an exported file, in the QDQ format.

onnxruntime's own quantizer writes the file; what it leaves to chance is settled here, so that
a layer planned as float *runs* in float. onnxruntime's load-time pass WeightBiasQuantization
turns a float layer that stands between a DequantizeLinear with a scalar scale and a
QuantizeLinear into an int8 one. A float layer is therefore fed the float tensor itself where
a float operator made it, and otherwise through a DequantizeLinear with one (equal) scale a
channel, which that pass leaves alone. In the same way a QuantizeLinear behind a max pool that
follows a float layer has one (equal) scale a channel: another pass, QDQPropagation, would move it
before the pool, whose int8 kernel is many times as slow as its float one.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from hardware_profiles.profile import Runtime
from spaces.files.ranges import activation_ranges

_BATCH = 64
_TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
LAYERS = ("Conv", "Gemm", "MatMul")
# Operators between layers that have int8 kernels; they follow the layers around them.
_BETWEEN = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "MaxPool",
    "Mul",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Squeeze",
)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images (N, C, H, W) for the input called ``name``, in batches."""

    def __init__(self, name: str, images: NDArray[np.float32]) -> None:
        batches = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
        self._batches = ({name: batch} for batch in batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def quantize_file(
    source: Path,
    target: Path,
    *,
    layers: Sequence[str],
    runtime: Runtime,
    images: NDArray[np.float32],
    ranges: str = "minmax",
) -> None:
    """Writes ``target``: ``source`` with the named layers (and what lies between) in 8 bits.

    Args:
        source: a float file whose layers' nodes carry the layers' names.
        layers: names of layers; all calls of a layer have its width.
        runtime: types of activations and weights for the target's kernels.
        images: calibration images, preprocessed, (N, C, H, W).
        ranges: how activation ranges are found: minmax, percentile or entropy.

    Raises:
        ValueError: the file has no layer of a given name.
    """
    model = onnx.load(source)
    weighted = layer_nodes(model)
    missing = set(layers) - {layer_of(node) for node in weighted}
    if missing:
        raise ValueError(f"the file must have every quantized layer, but lacks {sorted(missing)}")
    chosen = [node.name for node in weighted if layer_of(node) in layers]
    nodes = [*chosen, *nodes_between(model, set(chosen))]
    with quiet():
        quantize_static(
            source,
            target,
            Reader(model.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=nodes,
            op_types_to_quantize=[*LAYERS, *_BETWEEN],
            per_channel=True,
            reduce_range=runtime.reduce_range,
            activation_type=_TYPES[runtime.activation_type],
            weight_type=_TYPES[runtime.weight_type],
            # Affine activations: with a symmetric signed range a Relu can't be folded into the
            # layer before, and onnxruntime then runs that layer in float.
            extra_options={
                "ActivationSymmetric": False,
                "WeightSymmetric": True,
                "TensorQuantOverrides": narrower_ranges(model, nodes, images, ranges),
            },
        )
    quantized = onnx.load(target)
    keep_float(quantized, [n.name for n in weighted if n.name not in chosen])
    keep_pools_float(quantized)
    onnx.save(quantized, target)


def layer_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes with constant weights that stand for a convolution or linear layer, in file order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node for node in model.graph.node if node.op_type in LAYERS and node.input[1] in constants
    ]


def layer_of(node: onnx.NodeProto) -> str:
    """The layer that a node is a call of: the second call of ``conv`` is named ``conv:2``."""
    return str(node.name).partition(":")[0]


def nodes_between(model: onnx.ModelProto, layers: set[str]) -> list[str]:
    """Operators all of whose inputs come, directly or not, from quantized layers."""
    quantized = {out for n in model.graph.node if n.name in layers for out in n.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:  # in topological order
        tensors = [name for name in node.input if name and name not in constants]
        if node.op_type in _BETWEEN and tensors and quantized.issuperset(tensors):
            quantized.update(node.output)
            found.append(node.name)
    return found


def narrower_ranges(
    model: onnx.ModelProto, nodes: Sequence[str], images: NDArray[np.float32], ranges: str
) -> dict[str, list[dict[str, np.float32]]]:
    """The quantizer's overrides for what the named nodes read and write.

    Empty for ``minmax``, which is what it does by itself.
    """
    if ranges == "minmax":
        return {}
    constants = {tensor.name for tensor in model.graph.initializer}
    tensors = {
        name: None
        for node in model.graph.node
        if node.name in nodes
        for name in [*node.input, *node.output]
        if name and name not in constants
    }
    found = activation_ranges(model, list(tensors), images, ranges)
    return {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in found.items()
    }


def keep_float(model: onnx.ModelProto, layers: Sequence[str]) -> None:
    """Feeds the named float layers so that onnxruntime can't quantize them at load time."""
    graph = model.graph
    producers = {out: node for node in graph.node for out in node.output}
    values = {tensor.name: tensor for tensor in graph.initializer}
    channels = _channels(model)
    added: list[onnx.NodeProto] = []
    for node in graph.node:
        dequantize = producers.get(node.input[0]) if node.input else None
        if node.name not in layers or dequantize is None:
            continue
        if dequantize.op_type != "DequantizeLinear":
            continue
        quantize = producers.get(dequantize.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        origin = producers.get(quantize.input[0])
        if origin is None or not _runs_in_int8(origin, producers):
            node.input[0] = quantize.input[0]
            continue
        count = channels.get(quantize.input[0]) or channels.get(dequantize.output[0])
        if count is None:
            continue
        name = f"{node.name}_float_input"
        scales = [_repeated(graph, values[each], count, name) for each in dequantize.input[1:]]
        inputs = [dequantize.input[0], *scales]
        added.append(helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=1))
        node.input[0] = name
    _insert(graph, added)
    _drop_unused(graph)


def keep_pools_float(model: onnx.ModelProto) -> None:
    """Quantizes what max pools make of float tensors so that onnxruntime leaves it behind them."""
    graph = model.graph
    producers = {out: node for node in graph.node for out in node.output}
    values = {tensor.name: tensor for tensor in graph.initializer}
    channels = _channels(model)
    for node in graph.node:
        pool = producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if pool is None or pool.op_type != "MaxPool" or _runs_in_int8(pool, producers):
            continue
        count = channels.get(node.input[0])
        if count is None or len(node.input) < 3:
            continue
        for place in (1, 2):
            node.input[place] = _repeated(graph, values[node.input[place]], count, node.name)
        node.attribute.append(helper.make_attribute("axis", 1))
    _drop_unused(graph)


def _repeated(graph: onnx.GraphProto, scalar: onnx.TensorProto, count: int, owner: str) -> str:
    """The name of a new vector (count,) of the scalar's value."""
    value = numpy_helper.to_array(scalar)
    name = f"{owner}_{scalar.name.rpartition('_')[2]}"
    vector = np.full(count, value.reshape(-1)[0], value.dtype)
    graph.initializer.append(numpy_helper.from_array(vector, name))
    return name


def _runs_in_int8(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether the operator that made a tensor is itself fed by a DequantizeLinear."""
    maker = producers.get(node.input[0]) if node.input else None
    return maker is not None and maker.op_type == "DequantizeLinear"


def _channels(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    found = {}
    for value in [*inferred.graph.value_info, *inferred.graph.input]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) > 1 and dims[1].HasField("dim_value"):
            found[value.name] = dims[1].dim_value
    return found


def _insert(graph: onnx.GraphProto, added: list[onnx.NodeProto]) -> None:
    """Puts each new node right behind the one that makes its input."""
    waiting = {node.input[0]: [] for node in added}  # type: ignore[var-annotated]
    for node in added:
        waiting[node.input[0]].append(node)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for out in node.output:
            nodes += waiting.pop(out, [])
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unused(graph: onnx.GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    while True:
        used = outputs | {name for node in graph.node for name in node.input}
        dead = [node for node in graph.node if used.isdisjoint(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The quantizer talks on the root logger and, while it calibrates, on standard output.

    Its advice is followed already, and standard output belongs to the result.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
