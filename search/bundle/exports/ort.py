"""ONNX Runtime's own format, for its mobile packages and its minimal builds.

The graph is optimized once, here, for the target's kernels. ``model.required_operators.config``
beside it lists the operators that a minimal build needs: ``build.sh --include_ops_by_config``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from search.bundle.exports.exporter import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Ort:
    """``model.ort``."""

    name = "ort"
    title = "ONNX Runtime format"
    file = "model.ort"
    seconds = 3.0
    runtime = "onnxruntime"

    def check(self) -> None:
        """onnxruntime is always there."""

    def write(self, source: Source, target: Path) -> None:
        """Writes the ONNX file as it is after optimization."""
        from onnxruntime.tools.convert_onnx_models_to_ort import (
            OptimizationStyle,
            convert_onnx_models_to_ort,
        )

        platform = "arm" if source.profile.cpu.isa.startswith("arm") else "amd64"
        copied = target.with_suffix(".onnx")
        shutil.copyfile(source.onnx, copied)
        logging.disable(logging.INFO)  # it talks of each file that it writes
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                convert_onnx_models_to_ort(
                    copied, optimization_styles=[OptimizationStyle.Fixed], target_platform=platform
                )
        finally:
            logging.disable(logging.NOTSET)
        copied.unlink()

    def outputs(
        self, file: Path, images: NDArray[np.float32], threads: int
    ) -> NDArray[np.float32]:
        """As onnxruntime runs the file as it stands, without optimizing it again."""
        from search.bundle.exports.sessions import plain_outputs

        return plain_outputs(file, images, threads)


EXPORTER = Ort()
