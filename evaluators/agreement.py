"""Whether a file gives the same classes on the target's processor as it does here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from evaluators.graph import read_model
from evaluators.measurement import Measurement
from evaluators.resize import fitted
from evaluators.runtimes.onnxruntime import logits, open_session
from evaluators.runtimes.shifted import EXACT_ON_X86
from hardware_profiles import HardwareProfile, ProfileError, emulator
from hardware_profiles.devices.board import Board
from hardware_profiles.host import cpu_flags

ALLOWED = 0.005  # share of images whose class may differ before it is flagged
SECONDS = 120.0
_CHUNK = 16
_NOT_SATURATING = EXACT_ON_X86 | {"asimddp", "asimd"}


def agreement(
    model: Path,
    images: NDArray[np.float32],
    profile: HardwareProfile,
    seconds: float = SECONDS,
) -> Measurement:
    """``target_agreement``: share of images with the same top class here and on the target.

    Both run the same onnxruntime version, the target's for aarch64 on an emulated core.

    Args:
        model: an ONNX file with one input (batch, C, H, W) and logits as its first output.
        images: preprocessed, (N, C, H, W); taken in order until the time is up.
        profile: the target, with a ``[counts]`` section, which names the core.
        seconds: for all images; those that don't fit are left out.

    Raises:
        ProfileError: the profile names no core to emulate.
        EmulatorError: no emulator is installed, the file crashed it or made it hang, or there
            was no time for one image.
    """
    if profile.counts is None:
        raise ProfileError(
            f"agreement on the target needs a profile with a [counts] section, which names the "
            f"core to emulate, but {profile.name!r} has none"
        )
    core = profile.counts.qemu_cpu
    images = fitted(images, open_session(model, profile))
    target = target_logits(model, images, core, seconds)
    host = logits(model, images[: len(target)], profile)
    where = f"onnxruntime for aarch64 on an emulated {emulator.CORES[core].qemu}"
    found = _compared(model, profile, host, target.argmax(axis=1), where)
    largest = float(np.abs(host - target).max())
    return replace(found, detail={**(found.detail or {}), "largest_difference": largest})


def device_agreement(
    model: Path, images: NDArray[np.float32], profile: HardwareProfile, board: Board
) -> Measurement:
    """``target_agreement`` as ``agreement`` gives it, on a real device.

    Raises:
        DeviceError: the device is gone.
        ModelError: the file does not run there.
    """
    images = fitted(images, open_session(model, profile))
    target = board.predict(model, images)
    host = logits(model, images, profile)
    return _compared(model, profile, host, target, board.device.name)


def _compared(
    model: Path,
    profile: HardwareProfile,
    host: NDArray[np.float32],
    target: NDArray[np.int64],
    where: str,
) -> Measurement:
    """The share of equal classes, of logits here (N, classes) and classes there (N,)."""
    same = host.argmax(axis=1) == target
    share = float(same.mean())
    flagged = 1 - share > ALLOWED
    ordered = np.sort(host, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    return Measurement(
        name="target_agreement",
        value=share,
        unit="",
        source="measured",
        how=f"top-1 class of {len(same)} image{'s' * (len(same) > 1)}, {where} against this host",
        detail={
            "images": len(same),
            "different": int((~same).sum()),
            "median_margin": float(np.median(margins)),
            "median_margin_where_different": float(np.median(margins[~same])) if flagged else None,
            "flagged": flagged,
            "cause": likely_cause(model, profile, cpu_flags()) if flagged else None,
        },
        repeatable=True,
    )


def target_logits(
    model: Path,
    images: NDArray[np.float32],
    core: str,
    seconds: float = SECONDS,
    now: Callable[[], float] = time.monotonic,
) -> NDArray[np.float32]:
    """Logits (n, classes) of the first n images on an emulated core, as many as there is time for.

    Raises:
        EmulatorError: as ``agreement``; or the first image took longer than ``seconds``.
    """
    machine = emulator.shared(core, counting=False)
    parts: list[NDArray[np.float32]] = []
    began = now()
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "images.npy", Path(folder) / "logits.npy"
        while done < len(images):
            # One image shows how long others take; what follows is expected to end in time.
            image_s = (now() - began) / done if done else 0.0
            if (done + 1) * image_s > seconds:
                break
            count = min(_CHUNK, int(seconds / image_s) - done) if image_s else 1
            np.save(source, images[done : done + count])
            machine.predict(model, source, target, seconds)
            parts.append(np.load(target))
            done += count
    return np.concatenate(parts)


def likely_cause(model: Path, profile: HardwareProfile, host_flags: frozenset[str]) -> str:
    """Why classes differ, from what the file holds and what this host's kernels do."""
    types = _zero_point_types(read_model(model))
    if not types:
        return "float sums in another order; such images are near ties"
    # Without the signed kernels of the target, the host makes activations unsigned.
    unsigned = onnx.TensorProto.UINT8 in types or profile.runtime.activation_type == "uint8"
    if unsigned and not profile.runtime.reduce_range and not host_flags & _NOT_SATURATING:
        return (
            "this host's U8S8 kernels saturate (no VNNI), the target's do not; the accuracy "
            "measured here is the lower one: quantize with reduce_range to compare"
        )
    return "int8 kernels of host and target round differently; such images are near ties"


def _zero_point_types(model: onnx.ModelProto) -> set[int]:
    """Element types of the zero points of the file's QuantizeLinear operators."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {
        types[node.input[2]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in types
    }
