"""From a trained module to an ONNX file whose layers carry the modules' names."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn
from torch.nn.utils import parametrize

from spaces.files.folding import fold_weights
from spaces.files.pooling import exported_adaptive_pooling
from spaces.files.qdq import layer_nodes, layer_of
from spaces.tracing.network import Network, example_input
from spaces.tracing.recorder import WeightedCall, plain_attention, weighted_calls

INPUT, OUTPUT = "input", "logits"
OPSET = 17


def export_onnx(model: nn.Module, path: Path, input_shape: tuple[int, int, int]) -> None:
    """Writes ``model`` in eval mode: input ``input`` (batch, C, H, W), output ``logits``.

    Batch norms are folded and the batch axis is dynamic. Nodes of convolutions and linear
    layers are named as their modules, as far as it is certain which is which: ``named_layers``
    has those of a file.

    Raises:
        ValueError: the optimizer of the file lost a layer.
    """
    model = with_plain_weights(model.eval())
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
    _join_shared_weights(named)
    fold_weights(named)
    _state_padding(named)
    names = _name_layers(named, weighted_calls(model, example))
    onnx.save(named, raw)
    quant_pre_process(str(raw), str(path), skip_symbolic_shape=True)
    raw.unlink()
    file = onnx.load(path)
    _check_names(file, names)
    _name_weights(file)
    _own_biases(file)
    onnx.save(file, path)


def with_plain_weights(model: nn.Module) -> nn.Module:
    """The model with weights in the place of what computes them, such as a spectral norm.

    The exporter has no operators for some of these computations. Models without any are
    returned as they are.
    """
    if not any(parametrize.is_parametrized(module) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


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


def _state_padding(model: onnx.ModelProto) -> None:
    """Writes padding as numbers; onnxruntime refuses ``SAME_UPPER`` for dilated convolutions."""
    for node in model.graph.node:
        attributes = {a.name: a for a in node.attribute}
        auto = attributes.get("auto_pad")
        if node.op_type != "Conv" or auto is None or auto.s not in (b"SAME_UPPER", b"SAME_LOWER"):
            continue
        kernel = list(attributes["kernel_shape"].ints)
        dilations = _ints(attributes, "dilations", [1] * len(kernel))
        if any(stride != 1 for stride in _ints(attributes, "strides", [1] * len(kernel))):
            continue  # the padding depends on the input's size; PyTorch has no such layer
        total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        short, long = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = [*short, *long] if auto.s == b"SAME_UPPER" else [*long, *short]
        node.attribute.remove(auto)
        node.attribute.append(onnx.helper.make_attribute("pads", pads))


def _ints(
    attributes: Mapping[str, onnx.AttributeProto], name: str, default: list[int]
) -> list[int]:
    return list(attributes[name].ints) if name in attributes else default


def _name_layers(model: onnx.ModelProto, calls: Sequence[WeightedCall]) -> tuple[str, ...]:
    """Names the nodes of layers by the order in which the layers are called; gives the names.

    Where file and model differ (a recurrent layer is many products, but one node), what is
    certain is named; the other nodes lose what could be taken for a layer's name.
    """
    nodes = layer_nodes(model)
    pairs = certain_pairs(
        [call.form for call in calls], [_weight_form(model, node) for node in nodes]
    )
    times: Counter[str] = Counter()
    names = []
    for call in calls:
        times[call.name] += 1
        count = times[call.name]
        names.append(call.name if count == 1 else f"{call.name}:{count}")
    # A layer that is called several times is one only if every call of it is there.
    unsure = {calls[index].name for index in range(len(calls)) if index not in pairs}
    by_node = {pairs[index]: names[index] for index in pairs if calls[index].name not in unsure}
    for position, node in enumerate(nodes):
        node.name = by_node.get(position, f"/{node.op_type}_{position}")
    return tuple(by_node.values())


def certain_pairs(
    expected: Sequence[tuple[int, ...]], found: Sequence[tuple[int, ...]]
) -> dict[int, int]:
    """Positions in ``expected`` with those in ``found`` that every best alignment gives them.

    An alignment keeps the order of both and pairs what is equal; the best ones pair most. Equal
    sequences are paired whole. A pair is certain where aligning from the front and from the back
    gives the same.
    """
    if list(expected) == list(found):
        return dict(enumerate(range(len(found))))
    forward = _aligned(expected, found)
    back = _aligned(expected[::-1], found[::-1])
    last_expected, last_found = len(expected) - 1, len(found) - 1
    backward = {last_expected - e: last_found - f for e, f in back.items()}
    return {e: f for e, f in forward.items() if backward.get(e) == f}


def _aligned(
    expected: Sequence[tuple[int, ...]], found: Sequence[tuple[int, ...]]
) -> dict[int, int]:
    """A longest common subsequence that pairs as early as it can."""
    rows, columns = len(expected), len(found)
    longest = [[0] * (columns + 1) for _ in range(rows + 1)]
    for e in reversed(range(rows)):
        for f in reversed(range(columns)):
            if expected[e] == found[f]:
                longest[e][f] = longest[e + 1][f + 1] + 1
            else:
                longest[e][f] = max(longest[e + 1][f], longest[e][f + 1])
    pairs: dict[int, int] = {}
    e = f = 0
    while e < rows and f < columns:
        if expected[e] == found[f]:
            pairs[e] = f
            e, f = e + 1, f + 1
        elif longest[e + 1][f] >= longest[e][f + 1]:
            e += 1
        else:
            f += 1
    return pairs


def named_layers(model: onnx.ModelProto, network: Network) -> frozenset[str]:
    """Layers of a network that a file has under their names; others can't be quantized in it."""
    named = {layer_of(node) for node in layer_nodes(model)}
    return frozenset(layer.name for layer in network.layers if layer.name in named)


def _check_names(model: onnx.ModelProto, names: Sequence[str]) -> None:
    lost = set(names) - {node.name for node in layer_nodes(model)}
    if lost:
        raise ValueError(
            f"the optimized file must have every layer of the exported one, but lacks "
            f"{sorted(lost)[:3]}"
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


def _weight_form(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[int, ...]:
    """(output channels, input channels of a group, *kernel), as of a ``WeightedCall``."""
    dims = tuple(next(t.dims for t in model.graph.initializer if t.name == node.input[1]))
    if node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute):
        return dims
    return dims[::-1]
