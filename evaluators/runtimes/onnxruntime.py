"""onnxruntime sessions as every evaluator opens them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from evaluators.resize import fitted
from evaluators.runtimes.shifted import EXACT_ON_X86, with_unsigned_activations
from hardware_profiles import HardwareProfile
from hardware_profiles.host import cpu_flags

# At a time: so many images, and fewer where they are larger than 112 pixels.
_BATCH, _BATCH_VALUES = 64, 16 * 3 * 224 * 224
_COMPARED = 4  # images of which both sessions must give the same bits


def open_session(
    model: Path | bytes, profile: HardwareProfile, threads: int = 1
) -> ort.InferenceSession:
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
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def logits(
    model: Path, images: NDArray[np.float32], profile: HardwareProfile, threads: int = 1
) -> NDArray[np.float32]:
    """Outputs (N, classes) of the file for preprocessed images (N, C, H, W).

    Images that are larger than the file's input are made smaller.
    """
    session = open_session(model, profile, threads)
    session = _faster(session, model, images[:_COMPARED], profile, threads)
    return _outputs(session, images)


def _outputs(session: ort.InferenceSession, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs (N, classes), in batches; one by one where the file takes no other."""
    entry = session.get_inputs()[0]
    most = min(_BATCH, max(1, _BATCH_VALUES // max(images[0].size, 1))) if len(images) else 1
    size = most if entry.shape[0] != 1 else 1
    batches = (images[i : i + size] for i in range(0, len(images), size))
    parts = [session.run(None, {entry.name: fitted(batch, session)})[0] for batch in batches]
    return np.concatenate(parts)


def _faster(
    session: ort.InferenceSession,
    model: Path,
    images: NDArray[np.float32],
    profile: HardwareProfile,
    threads: int,
) -> ort.InferenceSession:
    """A session that gives the same bits for ``images`` in less time; else the one given.

    Averages and joins of tensors may round otherwise when zero points move, so that it is seen.
    """
    int8 = profile.runtime.activation_type == "int8"
    if not int8 or not cpu_flags() & EXACT_ON_X86 or not len(images):
        return session
    moved = with_unsigned_activations(model)
    if moved is None:
        return session
    other = open_session(moved, profile, threads)
    same = np.array_equal(_outputs(session, images), _outputs(other, images))
    return other if same else session
