from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from evaluators.runtimes import onnxruntime as module
from evaluators.runtimes.onnxruntime import logits, open_session
from evaluators.runtimes.shifted import with_unsigned_activations
from hardware_profiles import load_profile
from tests.models import quantized, small_network

ARM = load_profile("raspberry-pi-4b")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    return quantized(small_network(folder / "float.onnx"), folder / "int8.onnx")


def images(count: int = 9) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 3, 16, 16)).astype(np.float32)


def answers(model: Path | bytes) -> np.ndarray:
    session = open_session(model, ARM)
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images()])


def test_moved_activations_give_the_same_bits(int8: Path) -> None:
    moved = with_unsigned_activations(int8)
    assert moved is not None
    before = answers(int8)
    after = answers(moved)
    if module.cpu_flags() & module.EXACT_ON_X86:
        np.testing.assert_array_equal(before, after)
    types = {t.name: t.data_type for t in onnx.load_from_string(moved).graph.initializer}
    for node in onnx.load_from_string(moved).graph.node:
        if node.op_type == "QuantizeLinear":
            assert types[node.input[2]] == TensorProto.UINT8


def test_file_without_int8_activations_is_not_moved(int8: Path, tmp_path: Path) -> None:
    assert with_unsigned_activations(int8.with_name("float.onnx")) is None
    unsigned = onnx.load_from_string(with_unsigned_activations(int8) or b"")
    onnx.save(unsigned, str(tmp_path / "uint8.onnx"))
    assert with_unsigned_activations(tmp_path / "uint8.onnx") is None


def test_int8_values_outside_of_quantization_are_not_moved(int8: Path, tmp_path: Path) -> None:
    model = onnx.load(int8)
    model.graph.initializer.append(helper.make_tensor("pads", TensorProto.INT8, [1], [3]))
    model.graph.node.append(helper.make_node("Identity", ["pads"], ["unused"]))
    onnx.save(model, str(tmp_path / "more.onnx"))
    assert with_unsigned_activations(tmp_path / "more.onnx") is None


def test_other_answers_on_the_first_images_keep_the_file_as_it_is(
    int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that answers otherwise is made of another network."""
    right = answers(int8)
    other = onnx.load_from_string(with_unsigned_activations(int8) or b"")
    for tensor in other.graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1:
            tensor.raw_data = bytes(reversed(tensor.raw_data))
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset({"avx512_vnni"}))
    monkeypatch.setattr(module, "with_unsigned_activations", lambda _: other.SerializeToString())
    np.testing.assert_array_equal(logits(int8, images(), ARM), right)


@pytest.mark.parametrize("flags", [{"avx2"}, set()])
def test_nothing_is_moved_where_x86_saturates_or_activations_are_unsigned(
    int8: Path, flags: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: Path) -> bytes:
        raise AssertionError

    monkeypatch.setattr(module, "with_unsigned_activations", never)
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset(flags))
    logits(int8, images(), ARM)
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset({"avx512_vnni"}))
    unsigned = replace(ARM, runtime=replace(ARM.runtime, activation_type="uint8"))
    logits(int8, images(), unsigned)
