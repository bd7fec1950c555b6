"""LiteRT, formerly TensorFlow Lite: ``.tflite``, through Google's own litert-torch.

The input stays as it is for the ONNX file: float32 (1, C, H, W), made as ``preprocess.json`` says.
Layers of 8 bits are quantized anew, over ranges of the same calibration images: LiteRT's kernels
want other parameters than onnxruntime's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from search.bundle.exports.exporter import ExportError, Source
from search.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONVERTER = "search.bundle.exports.litert"
CALIBRATION_IMAGES = 128
PATIENCE_S = 600.0


class TFLite:
    """``model.tflite``."""

    name = "tflite"
    title = "LiteRT (TFLite)"
    file = "model.tflite"
    seconds = 30.0
    runtime = "LiteRT's interpreter"

    def check(self) -> None:
        """Looks for the converter.

        Raises:
            InputError: it is not installed.
        """
        if find_spec("litert_torch") is None or find_spec("ai_edge_litert") is None:
            raise InputError(
                "--export tflite needs the package litert-torch, which is not installed; run: "
                "pip install litert-torch"
            )

    def write(self, source: Source, target: Path) -> None:
        """Converts in a process of its own.

        Raises:
            ExportError: the converter can't, or takes too long.
        """
        import numpy as np
        import torch

        from spaces.tracing.recorder import weighted_calls

        example = torch.from_numpy(source.images[:1])
        calls = weighted_calls(source.model, example)
        with tempfile.TemporaryDirectory(dir=target.parent) as name:
            folder = Path(name)
            with torch.no_grad():
                program = torch.export.export(source.model, (example,))
            torch.export.save(program, folder / "program.pt2")
            np.save(folder / "calibration.npy", source.images[:CALIBRATION_IMAGES])
            layers = [(call.form[0], call.name in source.quantized) for call in calls]
            (folder / "layers.json").write_text(json.dumps(layers))
            _convert(folder)
            (folder / self.file).replace(target)

    def outputs(
        self, file: Path, images: NDArray[np.float32], threads: int
    ) -> NDArray[np.float32]:
        """As LiteRT's interpreter computes it, one image at a time."""
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file), num_threads=threads)
        interpreter.allocate_tensors()
        (before,), (after,) = interpreter.get_input_details(), interpreter.get_output_details()
        rows = []
        for index in range(len(images)):
            interpreter.set_tensor(before["index"], images[index : index + 1])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(after["index"]).copy())
        return np.concatenate(rows)


EXPORTER = TFLite()


def _convert(folder: Path) -> None:
    """Runs the converter on a folder.

    Raises:
        ExportError: it can't, or takes too long.
    """
    from search.bundle.exports.litert import EXIT_CANNOT

    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", CONVERTER, str(folder)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"litert-torch took longer than {PATIENCE_S:g} s") from None
    if done.returncode:
        said = done.stdout if done.returncode == EXIT_CANNOT else done.stderr
        last = (said.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ExportError(f"litert-torch can't convert it: {last[:300]}")
