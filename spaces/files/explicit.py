"""Quantization for runtimes that follow explicit pairs and nothing else, such as TensorRT.

Symmetric int8 everywhere: a pair at each quantized layer's input and weights and at both inputs
of additions between quantized layers, none at outputs (so that a Relu stays with its layer), and
biases in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from spaces.files.qdq import (
    LAYERS,
    Reader,
    layer_nodes,
    layer_of,
    narrower_ranges,
    nodes_between,
    quiet,
)


def quantize_explicit(
    source: Path,
    target: Path,
    *,
    layers: Sequence[str],
    images: NDArray[np.float32],
    ranges: str = "minmax",
) -> None:
    """Writes ``target``: ``source``, a float file, with the named layers in symmetric int8.

    Args:
        source: a float file whose layers' nodes carry the layers' names.
        layers: names of layers.
        images: calibration images, preprocessed, (N, C, H, W).
        ranges: how activation ranges are found: minmax, percentile or entropy.
    """
    model = onnx.load(source)
    chosen = {node.name for node in layer_nodes(model) if layer_of(node) in layers}
    between = set(nodes_between(model, chosen))
    added = [n.name for n in model.graph.node if n.op_type == "Add" and n.name in between]
    kinds = [*LAYERS, "Add"]
    nodes = [*sorted(chosen), *added]
    with quiet():
        quantize_static(
            source,
            target,
            Reader(model.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=nodes,
            op_types_to_quantize=kinds,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "AddQDQPairToWeight": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": kinds,
                "TensorQuantOverrides": narrower_ranges(model, nodes, images, ranges),
            },
        )
