"""Ranges of activations: what is cut off, what is kept, and that the file has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import IMAGE, NETWORKS, pictures, seeded
from onnx import numpy_helper

from hardware_profiles import load_profile
from spaces.files.export import export_onnx
from spaces.files.qdq import quantize_file
from spaces.files.ranges import BINS, activation_ranges, by_entropy, by_percentile
from spaces.techniques.quantization import METHODS

ARM = load_profile("raspberry-pi-4b")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    export_onnx(seeded(NETWORKS["residual"]), path, IMAGE)
    return path


def histogram(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Counts as ``activation_ranges`` makes them, and the extremes."""
    low, high = float(values.min()), float(values.max())
    reach = max(abs(low), abs(high))
    counts = np.histogram(values, BINS, (-reach if low < 0 else 0.0, reach))[0]
    return counts.astype(float), (low, high)


def test_percentile_cuts_off_one_in_ten_thousand() -> None:
    counts = np.ones(BINS) * 100
    counts[-1] = 20.0  # fewer than the 20.47 that are one in ten thousand
    assert by_percentile(counts, (0.0, 1.0)) == (0.0, (BINS - 1) / BINS)
    counts[-1] = 21.0
    assert by_percentile(counts, (0.0, 1.0)) == (0.0, 1.0)
    # Both signs: the bins reach as far below zero as above it, the range no further than seen.
    assert by_percentile(counts, (-0.25, 1.0))[0] == -0.25


def test_entropy_keeps_what_is_spread_evenly_and_cuts_long_tails() -> None:
    draw = np.random.default_rng(0)
    even = draw.uniform(0, 3, 200_000)
    low, high = by_entropy(*histogram(even))
    assert low == pytest.approx(even.min(), abs=1e-3)
    assert high == pytest.approx(3, rel=0.02)
    for tailed in (np.abs(draw.normal(0, 1, 200_000)), draw.normal(0, 1, 200_000)):
        outlier = np.append(tailed, 60.0)
        low, high = by_entropy(*histogram(outlier))
        assert 2 < high < 20
        assert low == pytest.approx(max(outlier.min(), -high), rel=1e-6)


def test_zeros_of_an_activation_do_not_decide() -> None:
    draw = np.random.default_rng(0).normal(0, 1, 100_000)
    plain = by_entropy(*histogram(np.abs(draw)))
    many_zeros = by_entropy(*histogram(np.append(np.abs(draw), np.zeros(400_000))))
    assert many_zeros == pytest.approx(plain, rel=0.05, abs=0.01)


def test_ranges_are_of_the_activations_that_were_seen(file: Path) -> None:
    model, images = onnx.load(file), pictures(70).numpy()
    tensor = model.graph.node[0].output[0]
    given = model.graph.input[0].name
    for method in ("percentile", "entropy"):
        found = activation_ranges(model, [given, tensor], images, method)
        low, high = found[given]
        assert images.min() <= low < 0 < high <= images.max()
        assert found[tensor][0] < found[tensor][1]
    assert [value.name for value in model.graph.output] == ["logits"]


def test_only_positive_and_constant_activations_have_ranges() -> None:
    positive = np.random.default_rng(0).exponential(1, 10_000)
    for find in (by_percentile, by_entropy):
        counts, extremes = histogram(positive)
        low, high = find(counts, extremes)
        assert low == pytest.approx(extremes[0], abs=0.01)
        assert 1 < high <= extremes[1]
        constant = np.zeros(BINS)
        constant[0] = 50
        assert find(constant, (0.0, 0.0)) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_file_has_the_ranges_of_any_number_of_images(
    method: str, file: Path, tmp_path: Path
) -> None:
    images = pictures(70).numpy()  # not a whole number of batches
    images[0, 0, 0, 0] = 40.0
    target = tmp_path / "int8.onnx"
    quantize_file(
        file, target, layers=("stem.0",), runtime=ARM.runtime, images=images, ranges=method
    )
    model = onnx.load(target)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    given = model.graph.input[0].name
    (node,) = [
        n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == given
    ]
    low, high = float(images.min()), 40.0
    if method != "minmax":
        low, high = activation_ranges(onnx.load(file), [given], images, method)[given]
        assert high < 20
    assert values[node.input[1]] == pytest.approx((high - low) / 255, rel=1e-3)
