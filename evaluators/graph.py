"""The operators that ONNX Runtime executes for a file, with their shapes and widths.

Nothing about fusion is guessed: the file is run once and the runtime's own profile says which
kernels ran on tensors of which shapes. Fused activations and batch normalizations, quantize
pairs that vanished and those that stayed are what they are on the target, as long as host and
target optimize alike. Two optimizers differ between processors and are set here: the blocked
float layout of x86 (off) and whether signed int8 is kept (``arm``).
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from hardware_profiles.ops import Op, OpShape
from hardware_profiles.regular_files import open_regular, shortened

_INT8_OPS = frozenset(
    {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"}
)
_WEIGHTED: Mapping[str, Op] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger"), "conv"),
    "ConvTranspose": "conv",
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul"), "linear"),
    **dict.fromkeys(("MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat"), "linear"),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulNBits"), "linear"),
}
_PLAIN: Mapping[str, Op] = {
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), "quantize"),
    **dict.fromkeys(("MaxPool", "NhwcMaxPool"), "pool"),
    **dict.fromkeys(("AveragePool", "QLinearAveragePool"), "average_pool"),
    **dict.fromkeys(("GlobalAveragePool", "QLinearGlobalAveragePool"), "global_pool"),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMean", "QLinearReduceMean"), "global_pool"),
    **dict.fromkeys(("Concat", "QLinearConcat", "Split", "Slice"), "concat"),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "QLinearAdd", "QLinearMul"), "add"),
}
# Operators that rename a tensor; the runtime moves no data.
_FREE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Constant"})
_BITS = {"int8": 8, "uint8": 8, "float16": 16, "bfloat16": 16}
_WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "QLinearConv": 3}
_NUMPY = {"float": np.float32, "float16": np.float16, "double": np.float64}


class GraphError(ValueError):
    """The file is no model that the runtime can run; the message says why in one line."""


@dataclass(frozen=True)
class GraphOp:
    """One executed operator.

    ``name`` is that of the layer's weight where it has one (``layer1.0.conv1``), else of the
    node. ``op`` is one of ``hardware_profiles.OPS``; ``bits`` the width of its input tensor,
    32 for the operators that quantize and dequantize. ``runtime_op`` is the runtime's own name.
    """

    name: str
    op: Op
    shape: OpShape
    bits: int
    runtime_op: str = ""


@dataclass(frozen=True)
class _Node:
    """What the file says of a node and the runtime's profile does not."""

    weight: tuple[int, ...] | None
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    groups: int
    transposed: bool


def walk(path: Path, arm: bool = True) -> tuple[GraphOp, ...]:
    """Operators that are executed for one image, in the order of execution.

    Args:
        path: an ONNX file; a dynamic batch becomes 1.
        arm: whether the target is an ARM processor, where signed int8 activations are kept;
            on x86 the runtime turns them into unsigned ones, and not everywhere with success.

    Raises:
        GraphError: the file is missing, broken, or the runtime cannot run it; or more than
            the batch is dynamic.
    """
    model = label(read_model(path))
    with tempfile.TemporaryDirectory() as folder:
        kernels = executed(model, _profile_once(model, path, Path(folder), arm))
    return tuple(op for op in kernels if op is not None)


def read_model(path: Path) -> onnx.ModelProto:
    """The file, checked to be ONNX.

    Raises:
        GraphError: it is missing or is not an ONNX file, or more than the batch is dynamic.
    """
    try:
        with open_regular(path) as file:
            model = onnx.load_model_from_string(file.read())
    except OSError as error:
        raise GraphError(
            f"a model must be a readable file, but {shortened(path)} is not: {error.strerror}"
        ) from None
    except (DecodeError, ValueError) as error:
        raise GraphError(f"a model must be an ONNX file, but {path} is not: {error}") from None
    _load_external(model, path)
    if not model.graph.node:
        raise GraphError(f"a model must be an ONNX file with operators, but {path} has none")
    _check_inputs(model, path)
    return model


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    """Reads the weights that lie in files of their own, beside the model and nowhere else.

    Raises:
        GraphError: one is missing, too short, a link, or outside of the model's folder.
    """
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        rule = f"weights of {path} must lie in files beside it, but {tensor.name!r}"
        if not location or Path(location).is_absolute() or ".." in Path(location).parts:
            raise GraphError(f"{rule} is in {location!r}; save the model as one file")
        beside = path.parent / location
        try:
            inside = [beside, *beside.parents[: len(Path(location).parts) - 1]]
            if any(part.is_symlink() for part in inside):
                raise OSError(0, "is a link")
            with open_regular(beside) as file:
                size_bytes = os.fstat(file.fileno()).st_size
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or size_bytes - offset)
            if offset < 0 or length < 0 or offset + length > size_bytes:
                raise ValueError(f"{offset} to {offset + length} of {size_bytes} bytes")
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            why = getattr(error, "strerror", None) or error
            raise GraphError(
                f"{rule} can't be read from {location!r} ({why}); copy the file again, or save "
                f"the model as one file"
            ) from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a graph and of those inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _tensors(inner)


def _check_inputs(model: onnx.ModelProto, path: Path) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in weights or all(dim.dim_value > 0 for dim in dims[1:]):
            continue
        sizes = [dim.dim_value or dim.dim_param or "?" for dim in dims]
        raise GraphError(
            f"only the batch may be dynamic, but input {value.name!r} of {path} is "
            f"{' x '.join(map(str, sizes))}; fix its size: python -m "
            f"onnxruntime.tools.make_dynamic_shape_fixed --input_name {value.name} "
            f"--input_shape 1,3,224,224 {path} FIXED.onnx"
        )


def label(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node is named after its layer, each name once."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    sources = {out: node for node in copy.graph.node for out in node.output}
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        weight = _weight_name(node, sources)
        known = weight.endswith(".weight") and not weight.startswith("onnx::")
        name = weight.removesuffix(".weight") if known else node.name.strip("/")
        name = name or f"{node.op_type}_{index}"
        if name in taken:
            name = f"{name}#{index}"
        taken.add(name)
        node.name = name
    return copy


def executed(
    model: onnx.ModelProto, events: Iterable[Mapping[str, Any]]
) -> tuple[GraphOp | None, ...]:
    """Operators of one run from the kernels among the entries of the runtime's profile.

    Args:
        model: the labelled model of which the profile is.
        events: the profile's entries; those that are no kernel are passed over.

    Returns:
        One operator for each kernel; None for one that only renames a tensor.
    """
    nodes = _nodes(model)
    return tuple(_graph_op(event, nodes) for event in events if is_kernel(event))


def is_kernel(event: Mapping[str, Any]) -> bool:
    """Whether an entry of the runtime's profile is the run of one operator's kernel."""
    return event.get("cat") == "Node" and str(event.get("name")).endswith("_kernel_time")


def layer_name(event: Mapping[str, Any]) -> str:
    """The layer of a kernel's entry: its node's name without what the optimizers appended."""
    name = str(event["name"]).removesuffix("_kernel_time")
    return re.sub(r"(_token_\d+|_nchwc|_nhwc)+$", "", name)


def _profile_once(
    model: onnx.ModelProto, path: Path, folder: Path, arm: bool
) -> list[dict[str, Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    for key, value in session_config(arm).items():
        options.add_session_config_entry(key, value)
    try:
        session = ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["NchwcTransformer"],
        )
        session.run(None, {i.name: _zeros(i.type, i.shape) for i in session.get_inputs()})
    except Exception as error:  # the runtime's errors share no class of their own
        first = str(error).strip().splitlines()[0]
        raise GraphError(f"the runtime must be able to run {path}, but: {first}") from None
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    return events


def session_config(arm: bool) -> dict[str, str]:
    """Session configuration with which operators here are those of an ARM target, or of x86."""
    return {"session.qdqisint8allowed": "1" if arm else "0"}


def _zeros(kind: str, shape: Sequence[int | str | None]) -> np.ndarray[Any, Any]:
    element = kind.removeprefix("tensor(").removesuffix(")")
    dims = [size if isinstance(size, int) and size > 0 else 1 for size in shape]
    return np.zeros(dims, _NUMPY.get(element, element))


def _weight_name(node: onnx.NodeProto, sources: Mapping[str, onnx.NodeProto]) -> str:
    """Name of the tensor in the file that holds the node's weights; empty without weights."""
    position = _WEIGHT_INPUT.get(node.op_type)
    if position is None or len(node.input) <= position:
        return ""
    name = str(node.input[position])
    while name in sources and sources[name].op_type in ("DequantizeLinear", "QuantizeLinear"):
        name = str(sources[name].input[0])
    return "" if name in sources else name.removesuffix("_quantized")


def _nodes(model: onnx.ModelProto) -> dict[str, _Node]:
    sources = {out: node for node in model.graph.node for out in node.output}
    dims = {t.name.removesuffix("_quantized"): tuple(t.dims) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        found[node.name] = _Node(
            weight=dims.get(_weight_name(node, sources)),
            kernel=tuple(attributes.get("kernel_shape", ())),
            strides=tuple(attributes.get("strides", ())),
            groups=int(attributes.get("group", 1)),
            transposed=bool(attributes.get("transB", 0)),
        )
    return found


def _graph_op(event: Mapping[str, Any], nodes: Mapping[str, _Node]) -> GraphOp | None:
    args = event["args"]
    runtime_op = str(args["op_name"])
    name = layer_name(event)
    inputs = [_tensor(entry) for entry in args["input_type_shape"]]
    outputs = [_tensor(entry) for entry in args["output_type_shape"]]
    if runtime_op in _FREE or not outputs or not inputs:
        return None
    kind, out = outputs[0]
    bits = (
        8 if runtime_op in _INT8_OPS or runtime_op.startswith("QLinear") else _BITS.get(kind, 32)
    )
    node = nodes.get(name)
    # Unfused weights are still among the inputs; packed ones are only in the file.
    weight = node.weight if node and node.weight else inputs[1][1] if len(inputs) > 1 else ()
    op = _WEIGHTED.get(runtime_op)
    if op == "conv" and len(weight) >= 3:
        groups = node.groups if node else max(1, _channels(inputs[0][1], 1) // weight[1])
        strides = _pair(node.strides) if node and node.strides else (1, 1)
        return _conv(name, runtime_op, bits, inputs[0][1], out, weight, strides, groups)
    if op == "linear" and inputs[0][1]:
        # One operand may be the result of another operator: then both are data, same product.
        rows, columns = math.prod(out[:-1]), out[-1]
        shape = OpShape(inputs[0][1][-1], columns, (rows, 1), (rows, 1))
        return GraphOp(name, "linear", shape, bits, runtime_op)
    plain = _PLAIN.get(runtime_op, "elementwise")
    source = max((dims for _, dims in inputs), key=math.prod)
    if runtime_op == "Transpose":
        plain = _transposition(source, out)
    if plain == "add" and sum(bool(dims) for _, dims in inputs) < 2:
        plain = "elementwise"
    if plain in ("pool", "average_pool", "global_pool"):
        last = runtime_op.startswith("Nhwc") or (out[-1] == source[-1] and out[1] != source[1])
        in_map, out_map = _map(source, last), _map(out, last)
        channels = (source[-1] if last else source[1]) if len(source) > 1 else source[0]
        kernel = _pair(node.kernel) if node and node.kernel else in_map
        strides = _pair(node.strides) if node and node.strides else (1, 1)
        shape = OpShape(channels, channels, in_map, out_map, kernel, strides)
        return GraphOp(name, plain, shape, bits, runtime_op)
    bits = 32 if plain == "quantize" else bits
    return GraphOp(name, plain, _elements(source, out), bits, runtime_op)


def _transposition(source: tuple[int, ...], out: tuple[int, ...]) -> Op:
    if len(out) <= 4:
        return "transpose"
    # With channels first whole rows stay together, and the runtime copies them as blocks.
    return "concat" if source[-1] == out[-1] else "shuffle"


def _conv(
    name: str,
    runtime_op: str,
    bits: int,
    source: tuple[int, ...],
    out: tuple[int, ...],
    weight: tuple[int, ...],
    strides: tuple[int, int],
    groups: int,
) -> GraphOp:
    transposed = runtime_op == "ConvTranspose"
    out_channels = weight[1] * groups if transposed else weight[0]
    in_channels = weight[0] if transposed else weight[1] * groups
    last = out[1] != out_channels or (source[1] != in_channels)
    shape = OpShape(
        in_channels,
        out_channels,
        _map(source, last),
        _map(out, last),
        _pair(weight[2:]),
        strides,
        groups,
    )
    depthwise = groups == in_channels and groups > 1
    return GraphOp(name, "depthwise" if depthwise else "conv", shape, bits, runtime_op)


def _tensor(entry: Mapping[str, Sequence[int]]) -> tuple[str, tuple[int, ...]]:
    """Element type and dimensions of one tensor of the profile; an absent one has none."""
    for kind, dims in entry.items():
        return kind, tuple(dims)
    return "", ()


def _channels(dims: tuple[int, ...], position: int) -> int:
    return dims[position] if len(dims) > position else 1


def _map(dims: tuple[int, ...], channels_last: bool) -> tuple[int, int]:
    """Height and width; further dimensions (video, volumes) are counted as height."""
    spatial = dims[1:-1] if channels_last else dims[2:]
    return _pair(spatial)


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    if not sizes:
        return (1, 1)
    return (math.prod(sizes[:-1]), sizes[-1])


def _elements(source: tuple[int, ...], out: tuple[int, ...]) -> OpShape:
    """Shape of an operator for which only the numbers of elements matter."""

    def split(dims: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
        return _channels(dims, 1), _pair(dims[2:])

    in_channels, in_map = split(source)
    out_channels, out_map = split(out)
    return OpShape(in_channels, out_channels, in_map, out_map)
