"""Size of the exported file."""

from __future__ import annotations

from pathlib import Path

from evaluators.evaluator import EvaluationContext
from evaluators.measurement import Measurement


class Size:
    """``size_bytes``: what the file takes on disk or in flash."""

    name = "size"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """Always."""
        return True

    def evaluate(self, model: Path, context: EvaluationContext) -> tuple[Measurement, ...]:
        """The one file's bytes; a file that keeps its weights elsewhere is not exported here.

        Raises:
            OSError: the file cannot be read.
        """
        size = model.stat().st_size
        return (
            Measurement(
                "size_bytes",
                size,
                "bytes",
                "exact",
                "size of the ONNX file",
                repeatable=True,
            ),
        )


EVALUATOR = Size()
