"""The untouched file against the model it was made from, before anything else is done with it.

Tracing follows one image: a branch on pixels, a random number or a state kept in Python is frozen
in the file, which then answers otherwise without a word.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from evaluators.runtimes.onnxruntime import logits
from hardware_profiles import HardwareProfile
from search.errors import InputError
from search.inputs.own_code import one_line
from spaces.files.export import export_onnx, named_layers
from spaces.tracing.network import Network

IMAGES, TOGETHER = 16, 4  # in all, and at a time
MOST_VALUES = IMAGES * 3 * 512 * 512  # of all images: fewer of larger ones
TOLERANCE = 0.02  # of the spread of an image's scores
ROUNDING = 1e-3  # of their size; float arithmetic makes about 1e-5


def check_export(
    model: nn.Module, network: Network, images: NDArray[np.float32], profile: HardwareProfile
) -> Network:
    """The network with those layers that the file has under their names; the others stay float.

    ``images`` are preprocessed, float32 (N, C, H, W). The model is not changed.

    Raises:
        InputError: the model can't be exported or run, or the file answers otherwise.
    """
    model = copy.deepcopy(model).eval()
    images = images[: max(2, min(IMAGES, MOST_VALUES // images[0].size))]
    with torch.no_grad():
        starts = range(0, len(images), TOGETHER)
        parts = [model(torch.from_numpy(images[i : i + TOGETHER])).float() for i in starts]
    expected = torch.cat(parts).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export_onnx(model, path, network.input_shape)
            answers = logits(path, images, profile)
        except Exception as error:  # of the exporter, the runtime or the model's own code
            raise InputError(
                f"the model must export to ONNX and run in onnxruntime, but that raised "
                f"{one_line(error)[:300]}; replace that operation, or try another --image-size"
            ) from error
        named = named_layers(onnx.load(path), network)
    # Fresh weights may give scores that hardly differ, beside which rounding is large.
    size = np.abs(expected).max(axis=1, keepdims=True)
    allowed = TOLERANCE * np.ptp(expected, axis=1, keepdims=True) + ROUNDING * size + 1e-6
    differs = (np.abs(answers - expected) > allowed).any(axis=1)
    if differs.any():
        raise InputError(
            f"the exported file must answer as the PyTorch model does, but its scores differ on "
            f"{int(differs.sum())} of {len(images)} calibration images: exporting freezes what "
            f"depends on the pixels in Python (if, while, .item()) or on chance; write it with "
            f"tensor operations, such as torch.where"
        )
    return replace(network, layers=tuple(la for la in network.layers if la.name in named))
