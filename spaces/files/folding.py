"""Weights that the network computes from others, such as a spectral norm's, become constants.

The quantizer and onnxruntime's integer kernels need a layer's weights in the file.
"""

from __future__ import annotations

import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from spaces.files.qdq import LAYERS


def fold_weights(model: onnx.ModelProto) -> None:
    """Computes, in place, all weights of layers that depend on no input of the network."""
    constant = {tensor.name for tensor in model.graph.initializer}
    computed = _computed(model, constant)
    wanted = {
        node.input[1]
        for node in model.graph.node
        if node.op_type in LAYERS and node.input[1] in computed
    }
    if not wanted:
        return
    ordered = sorted(wanted)
    values = ReferenceEvaluator(_giving(model, computed, ordered)).run(None, {})
    for node in [node for node in model.graph.node if wanted.intersection(node.output)]:
        model.graph.node.remove(node)
    for name, value in zip(ordered, values, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(value, name))


def _computed(model: onnx.ModelProto, constant: set[str]) -> dict[str, onnx.NodeProto]:
    """Tensors that nodes make of constants alone, with those nodes."""
    computed: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:  # in topological order
        is_random = node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
        has_body = any(a.g.node or a.graphs for a in node.attribute)
        if is_random or has_body:
            continue
        if all(not name or name in constant or name in computed for name in node.input):
            computed.update(dict.fromkeys(filter(None, node.output), node))
    return computed


def _giving(
    model: onnx.ModelProto, computed: dict[str, onnx.NodeProto], names: list[str]
) -> onnx.ModelProto:
    """A model without inputs that gives the named tensors."""
    needed, waiting = set(names), list(names)
    while waiting:
        node = computed.get(waiting.pop())
        new = set(node.input) - needed if node is not None else set()
        needed |= new
        waiting += new
    graph = onnx.helper.make_graph(
        [node for node in model.graph.node if needed.intersection(node.output)],
        "weights",
        [],
        [onnx.ValueInfoProto(name=name) for name in names],
        [tensor for tensor in model.graph.initializer if tensor.name in needed],
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import)
