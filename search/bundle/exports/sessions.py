"""Runs a file in onnxruntime as it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


def plain_outputs(file: Path, images: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    """Outputs (N, classes) without any optimization: what the file says is what is computed."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))]
    return np.concatenate(rows).astype(np.float32)
