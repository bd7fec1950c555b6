"""From a trained module to an ONNX file whose layers carry the modules' names."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from spaces.files.pooling import exported_adaptive_pooling
from spaces.files.qdq import layer_nodes, layer_of
from spaces.tracing.network import example_input
from spaces.tracing.recorder import plain_attention, weighted_calls

INPUT, OUTPUT = "input", "logits"
OPSET = 17


def export_onnx(model: nn.Module, path: Path, input_shape: tuple[int, int, int]) -> None:
    """Writes ``model`` in eval mode: input ``input`` (batch, C, H, W), output ``logits``.

    Batch norms are folded and the batch axis is dynamic. Nodes of convolutions and linear
    layers are named as their modules.

    Raises:
        ValueError: the file's layers are not the model's.
    """
    model = model.eval()
    example = example_input(model, input_shape)
    raw = path.with_suffix(".raw.onnx")
    with warnings.catch_warnings(), plain_attention(), exported_adaptive_pooling(OPSET):
        # The graph-capturing exporter needs ten times as long for the same file.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(raw),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    # The optimizer below keeps names, but not the order, in which nodes and calls correspond.
    named = onnx.load(raw)
    calls = weighted_calls(model, example)
    _join_shared_weights(named)
    _name_layers(named, calls)
    onnx.save(named, raw)
    quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
    raw.unlink()
    file = onnx.load(path)
    _check_names(file, calls)
    _name_weights(file)
    _own_biases(file)
    onnx.save(file, path)


def _join_shared_weights(model: onnx.ModelProto) -> None:
    """Lets every call of a layer read the layer's weights; the exporter puts copies between."""
    constants = {tensor.name for tensor in model.graph.initializer}
    copies = [
        node
        for node in model.graph.node
        if node.op_type == "Identity" and node.input[0] in constants
    ]
    source = {node.output[0]: node.input[0] for node in copies}
    for node in copies:
        model.graph.node.remove(node)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)


def _name_layers(model: onnx.ModelProto, calls: list[tuple[str, int]]) -> None:
    """Names the nodes of layers by the order in which the layers are called."""
    nodes = layer_nodes(model)
    widths = [_out_channels(model, node) for node in nodes]
    if [width for _, width in calls] != widths:
        raise ValueError(
            f"the exported file must have the model's {len(calls)} layers in order, but it has "
            f"{len(nodes)}; this architecture can't be mapped to its file"
        )
    for node, name in zip(nodes, _call_names(calls), strict=True):
        node.name = name


def _call_names(calls: list[tuple[str, int]]) -> list[str]:
    """A name for every call: the layer's, and ``conv:2`` for the second call of ``conv``."""
    seen: dict[str, int] = {}
    names = []
    for name, _ in calls:
        times = seen[name] = seen.get(name, 0) + 1
        names.append(name if times == 1 else f"{name}:{times}")
    return names


def _check_names(model: onnx.ModelProto, calls: list[tuple[str, int]]) -> None:
    expected, found = set(_call_names(calls)), {node.name for node in layer_nodes(model)}
    if expected != found:
        raise ValueError(
            f"the file must have the model's layers, but {sorted(expected ^ found)[:3]} differ; "
            f"this architecture can't be mapped to its file"
        )


def _name_weights(model: onnx.ModelProto) -> None:
    """Names the weights of layers as PyTorch does; fused and transposed ones have lost theirs."""
    names: dict[str, str] = {}
    for node in layer_nodes(model):
        names.setdefault(node.input[1], f"{layer_of(node)}.weight")
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


def _own_biases(model: onnx.ModelProto) -> None:
    """Gives layers biases of their own; the exporter keeps equal constants, such as zeros, once.

    The quantizer would give a bias that a norm reads, too, the type of a tensor, and onnxruntime
    then runs the layer in float.
    """
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in layer_nodes(model):
        if len(node.input) > 2 and readers[node.input[2]] > 1:
            own = model.graph.initializer.add()
            own.CopyFrom(values[node.input[2]])
            own.name = node.input[2] = f"{node.name}:bias"


def _out_channels(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    dims = next(t.dims for t in model.graph.initializer if t.name == node.input[1])
    if node.op_type == "Conv":
        return int(dims[0])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return int(dims[0] if transposed else dims[-1])
