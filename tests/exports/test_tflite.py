"""LiteRT's format, written by its makers' converter: make export-test installs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from export_samples import IMAGES, source_of, written
from torch import nn

from evaluators.runtimes.onnxruntime import logits
from search.bundle.exports.exporter import ExportError, exporters


@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_tflite_file_gives_near_answers(name: str, tmp_path: Path) -> None:
    source = source_of(name, tmp_path, ())
    _, scores = written("tflite", source, tmp_path)
    expected = logits(source.onnx, IMAGES, source.profile)
    assert np.abs(scores - expected).max() < 1e-3 * np.abs(expected).max()


def test_tflite_file_has_the_plans_layers_in_eight_bits(tmp_path: Path) -> None:
    source = source_of("residual", tmp_path, ("stem.0", "low.first.0", "head"))
    file, scores = written("tflite", source, tmp_path)
    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    shapes = [
        tuple(each["shape"])
        for each in interpreter.get_tensor_details()
        if each["dtype"] is np.int8 and each["quantization_parameters"]["scales"].size > 1
    ]
    kept = {(16, 3, 3, 3), (16, 3, 3, 16), (4, 24)}  # of the three layers, output channels first
    assert set(shapes) == kept
    assert scores.dtype == np.float32  # also where the last layer is in 8 bits
    expected = logits(source.onnx, IMAGES, source.profile)
    assert np.abs(scores - expected).max() < 0.1 * np.abs(expected).max()


class Singular(nn.Module):
    """Classifies by singular values, for which LiteRT has no operator."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(torch.linalg.svdvals(x.mean(1)))
        return scores


def test_what_the_converter_cannot_do_is_told_in_its_words(tmp_path: Path) -> None:
    source = replace(source_of("residual", tmp_path, ()), model=Singular().eval())
    with pytest.raises(ExportError, match="litert-torch can't convert it") as raised:
        exporters()["tflite"].write(source, tmp_path / "model.tflite")
    assert "\n" not in str(raised.value)
