"""Converts with litert-torch and ai-edge-quantizer, in a process that ``tflite.py`` starts.

They bring JAX and compilers of their own; whatever those do to a process, the search's is another.

    python -m search.bundle.exports.litert FOLDER

``FOLDER`` has ``program.pt2`` (an exported program for one image), ``calibration.npy`` (images)
and ``layers.json``: for each call of a convolution or linear layer, in order, its output channels
and whether it is to be in 8 bits. Writes ``model.tflite`` there. Exit code 3: one sentence on
standard output says why the format can't hold the model.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The axis of a layer's weights that counts its output channels.
LAYERS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
EXIT_CANNOT = 3


def main(folder: Path) -> int:
    """Converts; the exit code."""
    import litert_torch

    # Written by the search a moment ago.
    program = torch.export.load(folder / "program.pt2")
    calibration = np.load(folder / "calibration.npy", allow_pickle=False)
    layers: list[tuple[int, bool]] = json.loads((folder / "layers.json").read_text())
    target = folder / "model.tflite"
    example = torch.from_numpy(calibration[:1])
    litert_torch.convert(program.module(), (example,)).export(str(target))
    if any(quantized for _, quantized in layers):
        scopes = to_quantize(target, layers)
        if scopes is None:
            print("the converter merged or split layers, so that widths have no place")
            return EXIT_CANNOT
        _quantize(target, scopes, calibration)
    return 0


def to_quantize(file: Path, layers: Sequence[tuple[int, bool]]) -> list[str] | None:
    """The scopes of operators that are to be in 8 bits, None where layers can't be told.

    Those of the quantized layers, and of what lies between: operators all of whose inputs come,
    directly or not, from quantized layers.
    """
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flat

    model = flat.read_model(str(file))
    graph = model.subgraphs[0]
    names = [flat.get_op_name_by_index(model, 0, i) for i in range(len(graph.operators))]
    widths = [
        int(graph.tensors[op.inputs[1]].shape[LAYERS[name]])
        for name, op in zip(names, graph.operators, strict=True)
        if name in LAYERS
    ]
    if widths != [width for width, _ in layers]:
        return None
    quantized = iter([quantized for _, quantized in layers])
    narrow: set[int] = set()
    scopes = []
    for name, op in zip(names, graph.operators, strict=True):
        made = [i for i in op.inputs if i >= 0 and not _is_constant(model, graph.tensors[i])]
        chosen = next(quantized) if name in LAYERS else bool(made) and narrow.issuperset(made)
        if chosen:
            narrow.update(op.outputs)
            scopes.append(flat.get_op_scope(op, graph.tensors))
    return scopes


def _is_constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _quantize(file: Path, scopes: Sequence[str], calibration: Any) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    ((signature, details),) = Interpreter(str(file)).get_signature_list().items()
    job = quantizer.Quantizer(str(file))
    for scope in scopes:
        job.add_static_config(f"^{re.escape(scope)}$", TFLOperationName.ALL_SUPPORTED, 8, 8)
    for edge in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):  # later rules prevail
        job.update_quantization_recipe(".*", edge, algorithm_key=AlgorithmName.NO_QUANTIZE)
    # Image by image: over several the library averages their ranges, which cuts off the largest
    # scores.
    ranges: dict[str, Any] = {}
    for image in calibration:
        inputs = {details["inputs"][0]: image[None]}
        for name, seen in job.calibrate({signature: [inputs]}, num_threads=1).items():
            ranges[name] = min_max_update(ranges[name], seen) if name in ranges else seen
    job.quantize(ranges).export_model(str(file), overwrite=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
