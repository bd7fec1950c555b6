"""Small networks as exporters get them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from networks import IMAGE, NETWORKS, pictures, seeded
from numpy.typing import NDArray

from hardware_profiles import load_profile
from search.bundle.exports.exporter import Source, exporters
from spaces.files.export import export_onnx
from spaces.files.qdq import quantize_file
from spaces.tracing.network import trace

IMAGES = pictures(24).numpy()


def source_of(name: str, folder: Path, quantized: Sequence[str] | None = None) -> Source:
    """A small network, in 8 bits where ``quantized`` says, all of it unless given."""
    model = seeded(NETWORKS[name])
    layers = [layer.name for layer in trace(model, IMAGE).layers]
    chosen = tuple(layers if quantized is None else quantized)
    profile = load_profile("x86-avx2")
    export_onnx(model, folder / "plain.onnx", IMAGE)
    path = folder / ("model.onnx" if chosen else "plain.onnx")
    if chosen:
        quantize_file(
            folder / "plain.onnx", path, layers=chosen, runtime=profile.runtime, images=IMAGES
        )
    return Source(model, path, chosen, "minmax", IMAGES, profile)


def written(kind: str, source: Source, folder: Path) -> tuple[Path, NDArray[np.float32]]:
    """The file of an exporter, and its scores."""
    exporter = exporters()[kind]
    exporter.check()
    target = folder / kind / exporter.file
    target.parent.mkdir()
    exporter.write(source, target)
    return target, exporter.outputs(target, IMAGES, 1)
