from pathlib import Path

import pytest
from onnx import helper

from evaluators.graph import GraphError, GraphOp, walk
from hardware_profiles.ops import OpShape
from tests.models import quantized, save, small_network

STEM = OpShape(3, 16, (16, 16), (8, 8), (3, 3), (2, 2), 1)
DEPTH = OpShape(16, 16, (8, 8), (8, 8), (3, 3), (1, 1), 16)
POINT = OpShape(16, 16, (8, 8), (8, 8), (1, 1), (1, 1), 1)
HEAD = OpShape(16, 10)


def weighted(ops: tuple[GraphOp, ...]) -> list[tuple[str, str, OpShape, int]]:
    return [
        (op.name, op.op, op.shape, op.bits)
        for op in ops
        if op.op in ("conv", "depthwise", "linear")
    ]


def expected(bits: int) -> list[tuple[str, str, OpShape, int]]:
    return [
        ("stem", "conv", STEM, bits),
        ("depth", "depthwise", DEPTH, bits),
        ("point", "conv", POINT, bits),
        ("head", "linear", HEAD, bits),
    ]


def test_walk_gives_hand_written_shapes_when_file_is_float(tmp_path: Path) -> None:
    ops = walk(small_network(tmp_path / "m.onnx"))
    assert weighted(ops) == expected(32)


def test_walk_fuses_activations_and_the_residual_addition_when_batch_is_fixed(
    tmp_path: Path,
) -> None:
    ops = walk(small_network(tmp_path / "m.onnx"))
    assert [op.op for op in ops] == ["conv", "depthwise", "conv", "global_pool", "linear"]
    assert {op.bits for op in ops} == {32}


def test_walk_sets_the_batch_to_one_when_it_is_dynamic(tmp_path: Path) -> None:
    ops = walk(small_network(tmp_path / "m.onnx", batch="N"))
    assert weighted(ops) == expected(32)


def test_walk_gives_eight_bits_and_the_same_layers_when_file_is_quantized(tmp_path: Path) -> None:
    file = quantized(small_network(tmp_path / "m.onnx"), tmp_path / "q.onnx")
    ops = walk(file)
    assert weighted(ops) == expected(8)
    # Of all the pairs in the file only the one at the input and the one at the output remain.
    assert [op.runtime_op for op in ops if op.op == "quantize"] == [
        "QuantizeLinear",
        "DequantizeLinear",
    ]
    assert [(op.bits, op.runtime_op) for op in ops if op.op == "add"] == [(8, "QLinearAdd")]


def test_walk_gives_pools_and_concatenations_with_their_sizes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["image"], ["a"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["logits"], axis=1),
    ]
    ops = walk(save(tmp_path / "m.onnx", nodes, {}, (1, 4, 9, 9), (1, 8, 4, 4)))
    pool, sigmoid, concat = ops
    assert (pool.op, pool.shape) == ("pool", OpShape(4, 4, (9, 9), (4, 4), (3, 3), (2, 2)))
    assert (sigmoid.op, sigmoid.shape.out_elements) == ("elementwise", 4 * 4 * 4)
    assert (concat.op, concat.shape.out_elements) == ("concat", 8 * 4 * 4)


def test_walk_sees_groups_and_asymmetric_kernels(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["image", "w"], ["logits"], kernel_shape=[1, 3], group=2)
    ops = walk(save(tmp_path / "m.onnx", [node], {"w": (6, 2, 1, 3)}, (1, 4, 5, 7), (1, 6, 5, 5)))
    assert [op.shape for op in ops] == [OpShape(4, 6, (5, 7), (5, 5), (1, 3), (1, 1), 2)]
    assert ops[0].op == "conv"
    assert ops[0].shape.macs == 6 * 2 * 3 * 25


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_walk_says_in_one_line_what_is_wrong_when_file_is_no_model(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GraphError, match=r"m\.onnx") as caught:
        walk(path)
    assert "\n" not in str(caught.value)


def test_walk_says_what_the_runtime_says_when_the_model_cannot_run(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["image", "shape"], ["logits"])
    fixed = helper.make_node("Constant", [], ["shape"], value_ints=[7])
    path = save(tmp_path / "m.onnx", [fixed, node], {}, (1, 6), (7,))
    with pytest.raises(GraphError, match="must be able to run"):
        walk(path)


@pytest.mark.parametrize(
    ("perm", "op"), [([0, 2, 1, 3, 4], "concat"), ([0, 1, 2, 4, 3], "shuffle")]
)
def test_walk_tells_copied_blocks_from_shuffled_elements(
    tmp_path: Path, perm: list[int], op: str
) -> None:
    dims = (1, 2, 3, 4, 5)
    node = helper.make_node("Transpose", ["image"], ["logits"], perm=perm)
    path = save(tmp_path / "m.onnx", [node], {}, dims, tuple(dims[axis] for axis in perm))
    assert [(each.op, each.shape.out_elements) for each in walk(path)] == [(op, 120)]
