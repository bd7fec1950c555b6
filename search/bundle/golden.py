"""The golden set: test images with the answers that the bundled file must give anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from search.task import Preprocess, Split

GOLDEN_IMAGES = 200


def golden_split(test: Split) -> Split:
    """200 images of ``test``, or all where there are fewer, in the test split's proportions.

    Images are taken at even steps through the split sorted by class, so that every class gets
    its share up to one image, and the same split always gives the same images.
    """
    count = min(GOLDEN_IMAGES, len(test))
    by_class = np.argsort(test.labels, kind="stable")
    steps = np.arange(count) * len(test) // count
    chosen = np.sort(by_class[steps])
    return Split(test.images[chosen], test.labels[chosen])


def outputs_of(
    model: Path, images: NDArray[np.uint8], preprocess: Preprocess, threads: int
) -> NDArray[np.float32]:
    """Outputs (N, classes) of an ONNX file on pixels (N, C, H, W), one image at a time.

    One at a time, as on the device and in ``verify.py``: a file may have a fixed batch of one.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    inputs = preprocess.apply(images)
    rows = [session.run(None, {name: inputs[i : i + 1]})[0] for i in range(len(inputs))]
    return np.concatenate(rows).astype(np.float32)
