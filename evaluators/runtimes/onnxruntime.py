"""onnxruntime sessions as every evaluator opens them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from evaluators.resize import fitted
from hardware_profiles import HardwareProfile

_BATCH = 64


def open_session(model: Path, profile: HardwareProfile, threads: int = 1) -> ort.InferenceSession:
    """A CPU session that executes the same operators as the target does.

    onnxruntime on x86 leaves int8 *activations* in float unless told otherwise; on ARM it runs
    them. Files for such targets are therefore opened as ARM would open them.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile.runtime.activation_type == "int8":
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def logits(
    model: Path, images: NDArray[np.float32], profile: HardwareProfile, threads: int = 1
) -> NDArray[np.float32]:
    """Outputs (N, classes) of the file for preprocessed images (N, C, H, W).

    Images that are larger than the file's input are made smaller.
    """
    session = open_session(model, profile, threads)
    name = session.get_inputs()[0].name
    batches = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
    found = [session.run(None, {name: fitted(batch, session)})[0] for batch in batches]
    return np.concatenate(found)
