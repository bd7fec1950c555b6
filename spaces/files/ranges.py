"""Ranges of activations from calibration images, when their extremes are no good measure.

onnxruntime has such calibrators, too, but needs batches of equal size for them, and its search
by entropy has, with the numbers of bins that its quantizer allows, one candidate: the extremes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

BINS = 2048
PERCENTILE = 99.99
STEP = 16  # bins from one candidate of the entropy's search to the next
_BATCH = 64
Range = tuple[float, float]
Counts = NDArray[np.float64]


def activation_ranges(
    model: onnx.ModelProto, tensors: Sequence[str], images: NDArray[np.float32], method: str
) -> Mapping[str, Range]:
    """Lowest and highest value that each tensor's quantization should reach.

    Args:
        model: a float model; not changed.
        tensors: names of activations in it.
        images: preprocessed, (N, C, H, W).
        method: ``percentile`` or ``entropy``.
    """
    extremes: dict[str, Range] = {}
    for values in _values(model, tensors, images):
        for name, value in values.items():
            low, high = extremes.get(name, (np.inf, -np.inf))
            extremes[name] = (min(low, float(value.min())), max(high, float(value.max())))
    counts = {name: np.zeros(BINS) for name in tensors}
    for values in _values(model, tensors, images):
        for name, value in values.items():
            counts[name] += np.histogram(value, BINS, _spread(extremes[name]))[0]
    find = _METHODS[method]
    return {name: find(counts[name], extremes[name]) for name in tensors}


def by_percentile(counts: Counts, extremes: Range) -> Range:
    """The range beyond either end of which at most 0.01 percent of the values lie.

    ``counts`` are of equal bins between the extremes and, where they have both signs, as far
    on either side of zero.
    """
    low, high = _spread(extremes)
    edges = np.linspace(low, high, len(counts) + 1)
    beyond = (1 - PERCENTILE / 100) * counts.sum()
    first = int(np.searchsorted(counts.cumsum(), beyond, side="right"))
    last = len(counts) - int(np.searchsorted(counts[::-1].cumsum(), beyond, side="right"))
    return max(float(edges[first]), extremes[0]), min(float(edges[last]), extremes[1])


def by_entropy(counts: Counts, extremes: Range) -> Range:
    """The range that keeps most of the distribution when its values are rounded to 8 bits.

    Migacz 2017 (8-bit inference with TensorRT): of all ranges the one with the least divergence
    of the rounded from the true distribution, what lies beyond counted at the end. Ranges of
    both signs are as far on either side of zero. Zeros count no more than their neighbors: every
    range has them exactly, and a Relu makes so many that they would decide alone.
    """
    low, high = extremes
    both = low < 0 < high
    folded = counts[BINS // 2 :] + counts[: BINS // 2][::-1] if both else counts
    folded = (folded[::-1] if high <= 0 else folded).copy()
    folded[0] = folded[1]
    levels = 128 if both else 256
    ends = range(levels, len(folded) + 1, STEP)
    best = min(ends, key=lambda end: _divergence(folded, end, levels))
    reach = max(abs(low), abs(high)) * best / len(folded)
    return max(low, -reach), min(high, reach)


def _divergence(counts: Counts, end: int, levels: int) -> float:
    """Kullback-Leibler divergence when the first ``end`` bins are rounded to so many levels."""
    true = counts[:end].copy()
    level = np.arange(end) * levels // end
    filled = true > 0
    members = np.bincount(level[filled], minlength=levels)
    rounded = np.bincount(level, true, levels)[level] / np.maximum(members[level], 1) * filled
    true[-1] += counts[end:].sum()
    seen = true > 0
    p, q = true[seen] / true.sum(), rounded[seen] / max(rounded.sum(), 1e-12)
    return float(np.sum(p * np.log(p / np.maximum(q, 1e-6))))


def _spread(extremes: Range) -> Range:
    """What the bins cover: from zero, and as far on either side where both signs occur."""
    low, high = extremes
    reach = max(abs(low), abs(high), 1e-12)
    return (-reach if low < 0 else 0.0, reach if high > 0 or low >= 0 else 0.0)


def _values(
    model: onnx.ModelProto, tensors: Sequence[str], images: NDArray[np.float32]
) -> Iterator[Mapping[str, NDArray[np.float32]]]:
    """The tensors' values, batch by batch."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in [*watched.graph.output, *watched.graph.input]}
    for name in tensors:
        if name not in known:
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            watched.graph.output.append(value)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (given,) = (value.name for value in session.get_inputs())
    inner = [name for name in tensors if name != given]
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        outputs = session.run(inner, {given: batch}) if inner else []
        values = dict(zip(inner, outputs, strict=True))
        yield values | ({given: batch} if given in tensors else {})


_METHODS: Mapping[str, Callable[[Counts, Range], Range]] = {
    "percentile": by_percentile,
    "entropy": by_entropy,
}
