"""Quantized files: what the plan leaves in float *runs* in float, and what it doesn't in int8.

Looked at on the graph that onnxruntime has after its optimizer, at the level that ships: the
file itself says nothing about what is executed.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import IMAGE, NETWORKS, pictures, seeded
from onnx import numpy_helper
from torch import nn

from evaluators.graph import walk
from evaluators.runtimes.onnxruntime import open_session
from hardware_profiles import HardwareProfile, load_profile
from spaces.files import qdq
from spaces.files.export import export_onnx
from spaces.files.qdq import layer_nodes, layer_of, quantize_file
from spaces.tracing.network import trace

ARM = load_profile("raspberry-pi-4b")  # signed activations
VNNI = load_profile("x86-vnni")  # unsigned ones
SOME = settings(
    max_examples=16,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
INT8 = {"QLinearConv", "QGemm", "QLinearMatMul"}
_files = tempfile.TemporaryDirectory()  # of this process, gone with it
FLOAT = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


@cache
def float_file(name: str) -> Path:
    path = Path(_files.name) / f"{name}.onnx"
    export_onnx(seeded(NETWORKS[name]), path, IMAGE)
    return path


def calls_in(path: Path) -> list[str]:
    """The layer of every call, in file order."""
    return [layer_of(node) for node in layer_nodes(onnx.load(path))]


def quantized(name: str, layers: list[str], profile: HardwareProfile, folder: Path) -> Path:
    target = folder / "int8.onnx"
    images = pictures(16).numpy()
    quantize_file(float_file(name), target, layers=layers, runtime=profile.runtime, images=images)
    return target


def executed(path: Path, profile: HardwareProfile) -> tuple[list[str], int]:
    """Layers that run in int8, call by call, and how many calls run in float."""
    optimized = path.with_suffix(".optimized.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3
    if profile.runtime.activation_type == "int8":
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(optimized).graph.node
    narrow = [n.name.split("_token")[0].partition(":")[0] for n in nodes if n.op_type in INT8]
    return narrow, sum(n.op_type in FLOAT for n in nodes)


@pytest.mark.parametrize("profile", [ARM, VNNI], ids=["signed", "unsigned"])
@pytest.mark.parametrize("name", ["residual", "projected", "depthwise", "concat", "shared"])
@SOME
@given(data=st.data())
def test_layers_run_at_their_planned_width(
    name: str, profile: HardwareProfile, data: st.DataObject, tmp_path: Path
) -> None:
    calls = calls_in(float_file(name))
    layers = list(dict.fromkeys(calls))
    mask = data.draw(st.lists(st.booleans(), min_size=len(layers), max_size=len(layers)))
    planned = [layer for layer, narrow in zip(layers, mask, strict=True) if narrow]
    narrow, wide = executed(quantized(name, planned, profile, tmp_path), profile)
    assert sorted(narrow) == sorted(call for call in calls if call in planned)
    assert wide == sum(call not in planned for call in calls)


def test_onnxruntime_would_quantize_a_float_layer_between_int8_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap is real: without ``keep_float`` the test above fails."""
    planned = ["stem.0", "low.second", "wider.0", "high.first.0", "high.second", "head"]
    narrow, wide = executed(quantized("residual", planned, ARM, tmp_path), ARM)
    assert (sorted(narrow), wide) == (sorted(planned), 1)
    monkeypatch.setattr(qdq, "keep_float", lambda *_: None)
    narrow, wide = executed(quantized("residual", planned, ARM, tmp_path), ARM)
    assert "low.first.0" in narrow
    assert wide == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_near_the_float_files(name: str, tmp_path: Path) -> None:
    """Whole files, so that a wrong scale or axis shows; random weights leave wide margins."""
    layers = list(dict.fromkeys(calls_in(float_file(name))))
    images = {"input": pictures(16).numpy()}
    expected = open_session(float_file(name), ARM).run(None, images)[0]
    for planned in (layers, layers[::2], layers[1::2]):
        path = quantized(name, planned, ARM, tmp_path)
        found = open_session(path, ARM).run(None, images)[0]
        error = np.abs(found - expected).max() / np.ptp(expected)
        assert error < 0.1
        assert error > 0


def test_weights_have_one_symmetric_scale_for_each_output_channel(tmp_path: Path) -> None:
    model = onnx.load(quantized("residual", ["stem.0"], ARM, tmp_path))
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made_by = {out: node for node in model.graph.node for out in node.output}
    conv = next(node for node in model.graph.node if node.name == "stem.0")
    weight, scale, zero = (arrays[name] for name in made_by[conv.input[1]].input)
    before = onnx.load(float_file("residual"))
    source = next(n for n in before.graph.node if n.name == "stem.0").input[1]
    exact = next(numpy_helper.to_array(t) for t in before.graph.initializer if t.name == source)
    assert weight.dtype == np.int8
    assert not zero.any()
    np.testing.assert_allclose(scale, np.abs(exact).max((1, 2, 3)) / 127, rtol=1e-5)
    np.testing.assert_allclose(
        weight * scale[:, None, None, None], exact, atol=scale.max() / 2 * 1.001
    )


def test_activations_have_the_profiles_type(tmp_path: Path) -> None:
    for profile, expected in ((ARM, np.int8), (VNNI, np.uint8)):
        model = onnx.load(quantized("residual", ["stem.0"], profile, tmp_path))
        arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        first = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
        assert arrays[first.input[2]].dtype == expected


def test_reduced_range_leaves_a_bit_unused(tmp_path: Path) -> None:
    """For x86 without VNNI, where products of 8 bits saturate."""
    avx2 = load_profile("x86-avx2")
    assert avx2.runtime.reduce_range
    model = onnx.load(quantized("residual", ["stem.0"], avx2, tmp_path))
    weights = [numpy_helper.to_array(t) for t in model.graph.initializer]
    assert max(np.abs(w).max() for w in weights if w.dtype == np.int8 and w.ndim == 4) == 64


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy"])
def test_calibration_prints_nothing(
    ranges: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Standard output belongs to ``--json``."""
    images = pictures(16).numpy()
    source = float_file("shared")
    target = tmp_path / "int8.onnx"
    quantize_file(
        source, target, layers=["again.0"], runtime=ARM.runtime, images=images, ranges=ranges
    )
    assert capfd.readouterr().out == ""
    assert target.exists()


def test_layer_that_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have every quantized layer, but lacks \['no'\]"):
        quantized("residual", ["stem.0", "no"], ARM, tmp_path)


def test_graph_has_a_layer_for_each_traced_one() -> None:
    for name, make in NETWORKS.items():
        network = trace(seeded(make), IMAGE)
        assert {layer.name for layer in network.layers} == set(calls_in(float_file(name)))


class _Pooled(nn.Sequential):
    """As ResNets begin: a convolution, its activation, a max pool, and another convolution."""

    def __init__(self) -> None:
        first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        layers = {"first": first, "relu": nn.ReLU(), "pool": nn.MaxPool2d(3, 2), "second": second}
        super().__init__(OrderedDict(layers))


@pytest.mark.parametrize("profile", [ARM, VNNI], ids=["signed", "unsigned"])
def test_max_pool_runs_at_the_width_of_the_layer_before_it(
    profile: HardwareProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, images = tmp_path / "float.onnx", pictures(16).numpy()
    export_onnx(seeded(_Pooled), source, IMAGE)

    def pool_bits(*layers: str) -> int:
        target = tmp_path / "int8.onnx"
        quantize_file(source, target, layers=layers, runtime=profile.runtime, images=images)
        ops = walk(target, arm=profile is ARM)
        return next(op.bits for op in ops if op.op == "pool")

    assert pool_bits("first", "second") == 8
    assert pool_bits("first") == 8
    assert pool_bits("second") == 32
    # The trap is real: onnxruntime would quantize before the pool.
    monkeypatch.setattr(qdq, "keep_pools_float", lambda _: None)
    assert pool_bits("second") == 8
